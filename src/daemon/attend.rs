//! Looks after devices that fail: tells of it once, and takes them up again when they are back.
//!
//! Whoever serves only rings. Opening a device may take its time, or for ever where its filesystem hangs: so each device that is
//! looked for has a thread for that, and this one goes on with the others.

use super::live::Live;
use crate::clock::Clock;
use crate::control::Control;
use crate::device::{OpenError, Target, Trouble};
use crate::units::Nanos;
use nix::errno::Errno;
use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long after a device has failed it is looked for the first time, and at most.
const SOON: Nanos = Nanos::from_millis(100);
const SELDOM: Nanos = Nanos::from_secs(5);
/// How often it is looked whether a predecessor has let go of a disk, and for how long that is expected of it.
const OFTEN: Nanos = Nanos::from_millis(10);
const PATIENCE: Nanos = Nanos::from_secs(60);
/// Who has not answered for so long, and is not awaited, is told of as one that does not.
const SILENCE: Nanos = Nanos::from_secs(5);

/// Where those ring who see that a device fails.
#[derive(Debug, Default)]
pub(super) struct Attention {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Attention {
    /// There may be something to look at.
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    /// Waits until somebody has rung, or the time is over.
    fn wait(&self, time: Option<Duration>) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |rung: &mut bool| !*rung;
        let mut rung = match time {
            Some(time) => {
                self.bell.wait_timeout_while(rung, time, quiet).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.bell.wait_while(rung, quiet).unwrap_or_else(PoisonError::into_inner),
        };
        *rung = false;
    }
}

/// A device that is looked for.
struct Search {
    /// When to look again, and how long to wait after that.
    next: Nanos,
    pause: Nanos,
    /// What was told of it last.
    told: Option<String>,
    /// When something came of looking for it last, and that it was told that nothing does.
    answered: Nanos,
    silent: bool,
    /// What comes of looking for it, while somebody does.
    found: Option<Receiver<Result<bool, OpenError>>>,
}

impl Search {
    fn new(now: Nanos) -> Self {
        Self { next: now, pause: SOON, told: None, answered: now, silent: false, found: None }
    }

    /// What has come of looking for it, once.
    fn answer(&mut self) -> Option<Result<bool, OpenError>> {
        let found = self.found.as_ref()?.try_recv();
        if !matches!(found, Err(TryRecvError::Empty)) {
            self.found = None;
        }
        found.ok()
    }

    /// Nobody looks for it for a while.
    fn rest(&mut self, target: &Target, now: Nanos) {
        if target.is_awaited() {
            self.next = now.after(OFTEN);
        } else {
            self.next = now.after(self.pause);
            self.pause = self.pause.after(self.pause).min(SELDOM);
        }
    }
}

/// Starts the thread. `clock` is the one of the engines.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn start(
    live: Arc<Live>,
    control: Arc<Control>,
    attention: Arc<Attention>,
    clock: Clock,
) -> io::Result<()> {
    let mut searches = HashMap::new();
    let attend = move || {
        let mut holds = live.hold_awaited();
        let mut unwritten = false;
        loop {
            let next = look(&live, &control, &attention, clock, &mut searches, &mut unwritten);
            if holds {
                holds = live.hold_awaited();
            }
            // Behind a change that may be waiting for a disk nobody else is to wait.
            unwritten = unwritten && !control.try_write_down();
            let again = unwritten.then(|| clock.now().after(SOON));
            let next = next.into_iter().chain(again).min();
            attention.wait(next.map(|next| next.since(clock.now()).into()));
        }
    };
    thread::Builder::new().name("attend".into()).spawn(attend).map(drop)
}

/// Looks at every device; when to look again. `unwritten` is set if a successor must know something new.
fn look(
    live: &Live,
    control: &Control,
    attention: &Arc<Attention>,
    clock: Clock,
    searches: &mut HashMap<Arc<str>, Search>,
    unwritten: &mut bool,
) -> Option<Nanos> {
    let events = control.events();
    let targets = live.targets();
    searches.retain(|name, _| targets.iter().any(|(here, ..)| here == name));
    let mut next: Option<Nanos> = None;
    for (name, target, errand) in targets {
        let is_back = || format!("device {name}: {} is back, and served again", target.path().display());
        if let Some(search) = searches.get_mut(&name)
            && let Some(found) = search.answer()
        {
            search.answered = clock.now();
            // Of what was found by who looked for it first, that it is back is still to be told.
            search.silent &= matches!(found, Ok(false));
            match found {
                Ok(true) => {
                    *unwritten = true;
                    events.add(&is_back());
                    search.told = None;
                }
                Ok(false) => {}
                // Whoever waits for it waits.
                Err(_) if target.is_awaited() => {}
                Err(error) => {
                    let text = missing(&error);
                    if search.told.as_ref() != Some(&text) {
                        events.add(&format!("device {name}: {text}"));
                        search.told = Some(text);
                    }
                }
            }
            search.rest(&target, clock.now());
        }
        let news = target.news(clock.now());
        for trouble in news.began {
            if let Some(text) = words(trouble, &target) {
                events.add(&format!("device {name}: {} {text}", target.path().display()));
            }
        }
        if let Some(failed) = news.ended {
            let requests = if failed == 1 { "request" } else { "requests" };
            events.add(&format!("device {name}: all is well again; {failed} {requests} failed"));
        }
        if let Some(search) = searches.get_mut(&name)
            && search.silent
            && !target.is_missing()
        {
            events.add(&is_back());
            (search.silent, search.told) = (false, None);
        }
        if !news.failing && !target.is_missing() {
            if searches.remove(&name).is_some() {
                // It may have been found by who looked for it first, and has another number by now.
                *unwritten = true;
            }
            continue;
        }
        let now = clock.now();
        if target.is_awaited() && now >= PATIENCE {
            target.give_up();
        }
        let search = searches.entry(name.clone()).or_insert_with(|| Search::new(now));
        if search.found.is_none() && search.next <= now {
            let (send, found) = channel();
            let (missing, attention) = (target.clone(), attention.clone());
            let begun = errand.begin(move || {
                // The device may be gone from the configuration by now.
                let _ = send.send(missing.come_back());
                attention.ring();
            });
            if begun {
                search.found = Some(found);
            } else {
                search.rest(&target, now);
            }
        }
        let patience = search.answered.after(SILENCE);
        let quiet = target.is_missing() && !target.is_awaited() && search.told.is_none() && !search.silent;
        if quiet && now >= patience {
            let text = "does not answer; its images answer EIO until it is back";
            events.add(&format!("device {name}: {} {text}", target.path().display()));
            search.silent = true;
        }
        let silence = (quiet && now < patience).then_some(patience);
        // Who looks for it rings.
        let again = match search.found {
            Some(_) => target.is_awaited().then_some(PATIENCE),
            None => Some(search.next),
        };
        next = next.into_iter().chain(again).chain(silence).min();
    }
    next
}

/// What is told of a trouble, after the path; `None` for what the search tells better.
fn words(trouble: Trouble, target: &Target) -> Option<String> {
    let more = "; more of it is not told here until all is well again";
    Some(match trouble {
        Trouble::Missing => return None,
        Trouble::Full => format!("has no room for what is written: that is ENOSPC{more}"),
        Trouble::Cut => {
            // Where the question might hang it is not asked.
            let size = (!target.is_remote()).then(|| target.size_now()).flatten();
            let size = size.map(|size| format!(" to {size}")).unwrap_or_default();
            format!("was truncated{size}: what lay behind is lost, and is answered EIO{more}")
        }
        Trouble::Error(errno) => {
            let errno = Errno::from_raw(errno);
            format!("fails: {errno:?} ({}); its callers get EIO{more}", errno.desc())
        }
    })
}

fn missing(error: &OpenError) -> String {
    match error {
        OpenError::Another { .. } => error.to_string(),
        _ => format!("{error}; its images answer EIO until it is back"),
    }
}
