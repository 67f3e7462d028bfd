//! The running configuration: one plan, one text, and every way to change them.
//!
//! Whatever is written, wherever it is written, becomes another plan; the machinery then makes the mount be like it, all of it
//! or nothing. Changes come one after the other. Each one, and each refusal, is an event.

use super::command::Command;
use super::draft::Draft;
use super::edit;
use super::events::Events;
use super::grammar::Message;
use super::journal::{Asked, Carried, Journal};
use super::json;
use super::ls::{ImageLine, Service};
use super::refusal::Refusal;
use super::setting::Setting;
use super::snapshot::Snapshot;
use super::{ControlFile, ls, metrics, text};
use crate::clock;
use crate::config::{ControlPlan, Defaults, LARGEST, Plan, Probe, Report, ThisMachine, load_bytes, names_in};
use crate::engine::DiskStatus;
use crate::units::Bytes;
use nix::unistd::geteuid;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::SystemTime;

/// What a running configuration is in force on.
pub trait Machinery: Send + Sync {
    /// What holds where a configuration says nothing.
    fn defaults(&self) -> &Defaults;

    /// Looks at paths of devices.
    fn probe(&self) -> &dyn Probe;

    /// Makes the mount, which is like `old`, be like `new`.
    ///
    /// # Errors
    /// Why not; nothing is changed then.
    fn apply(&self, old: &Plan, new: &Plan) -> Result<(), Refusal>;

    /// Sets the counters of an ioband device to zero.
    fn reset(&self, device: &str);

    /// Makes an ioband device go on with what is at its path now.
    ///
    /// # Errors
    /// Why not; it stays on what it is on.
    fn reopen(&self, device: &str) -> Result<(), Refusal>;

    /// Says what a successor must know of the images and devices.
    fn write_down(&self, carried: &mut Carried);

    /// What the disks do.
    fn disks(&self) -> Vec<DiskStatus>;

    /// What images there are.
    fn images(&self) -> Vec<ImageLine>;

    /// How the mount is served, once it is.
    fn service(&self) -> Option<Service>;

    /// The process that keeps the mount, if there is one.
    fn keeper(&self) -> Option<u32> {
        self.service()?.processes.keeper
    }

    /// Has another program serve the mount. Where that comes about this process ends, and whoever asked has his answer from the
    /// next one, which is asked again.
    ///
    /// # Errors
    /// Why it does not come about.
    fn upgrade(&self, program: &Path, asked: Asked) -> Result<(), Refusal>;

    /// Writes a configuration to the file that was mounted; its name.
    ///
    /// # Errors
    /// Why not.
    fn save(&self, text: &str) -> Result<String, Refusal>;
}

/// The running configuration, and what is to be seen of it.
pub struct Control {
    events: Arc<Events>,
    journal: Arc<Journal>,
    running: Mutex<Running>,
    /// Held by whoever makes a change, from looking at what runs to what runs then.
    changing: Mutex<()>,
    /// Why the text is not in force: what ran with a predecessor could not be. Nothing of it is there then, so a change of a part of
    /// it would make the rest be forgotten.
    trouble: Mutex<Option<Arc<str>>>,
    machinery: OnceLock<Arc<dyn Machinery>>,
}

#[derive(Clone)]
struct Running {
    plan: Arc<Plan>,
    /// Says the same as the plan, in the words of whoever wrote it last.
    text: Arc<str>,
    changed: SystemTime,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("plan", &self.plan()).finish_non_exhaustive()
    }
}

/// What a new plan comes from: the text that somebody wrote, if it is one.
type Wanted = (Plan, Option<Arc<str>>);

impl Control {
    /// What runs before there is anything, and the text of what is about to run; since when that runs is in the journal, if it
    /// did before.
    pub fn new(events: Arc<Events>, journal: Arc<Journal>, plan: Plan, text: &str) -> Self {
        let now = clock::wall();
        let changed = journal.change(|carried| {
            carried.mounted.get_or_insert(now.into());
            carried.changed.map_or(now, SystemTime::from)
        });
        let running = Running { plan: Arc::new(settled(plan)), text: text.into(), changed };
        Self {
            events,
            journal,
            running: Mutex::new(running),
            changing: Mutex::default(),
            trouble: Mutex::default(),
            machinery: OnceLock::new(),
        }
    }

    /// Says what it is in force on; until then nothing can be changed.
    pub fn put_in_force_by(&self, machinery: Arc<dyn Machinery>) {
        if self.machinery.set(machinery).is_err() {
            debug_assert!(false, "a configuration runs on one mount");
        }
    }

    /// The text is what ran with a predecessor, and cannot be in force: until somebody gives a whole configuration, nothing of it can
    /// be changed, and what is known of it stays known.
    pub fn cannot_begin(&self, why: &str) {
        *self.troubled() = Some(why.into());
        self.journal.change(|carried| carried.trouble = Some(why.to_owned()));
    }

    /// The events of this mount.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// What a successor must know.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// What runs.
    pub fn plan(&self) -> Arc<Plan> {
        self.running().plan.clone()
    }

    /// The text of `control.yaml`, and since when it is that.
    pub fn yaml(&self) -> (Arc<str>, SystemTime) {
        let running = self.running();
        (running.text.clone(), running.changed)
    }

    /// A draft of `control.yaml` for one editor.
    pub fn draft(&self, emptied: bool) -> Draft {
        let text = if emptied { Vec::new() } else { self.yaml().0.as_bytes().to_vec() };
        // A little more than is accepted, so that what is too large can be told by its size.
        Draft::new(text, LARGEST as usize + 1)
    }

    /// Puts a whole configuration in force. `origin` is what its errors call it.
    ///
    /// # Errors
    /// All that is wrong with it, or why it cannot be in force now.
    pub fn replace(&self, bytes: &[u8], origin: &str, asked: Asked) -> Result<(), Refusal> {
        self.replace_and(bytes, origin, asked, |_| {})
    }

    /// Puts the configuration on disk in force. That it was seen is written down with what came of it: whoever dies in between
    /// has done neither, and his successor does both.
    ///
    /// # Errors
    /// As [`Control::replace`]; it was seen all the same.
    pub fn take_from_disk(&self, bytes: &[u8], origin: &str) -> Result<(), Refusal> {
        let seen = |carried: &mut Carried| carried.seen = Some(mark(bytes));
        self.replace_and(bytes, origin, Asked::default(), seen).inspect_err(|_| self.saw(bytes))
    }

    /// The same; and if it comes about, `also` is changed with it.
    ///
    /// # Errors
    /// As [`Control::replace`].
    pub fn replace_and(
        &self,
        bytes: &[u8],
        origin: &str,
        asked: Asked,
        also: impl FnOnce(&mut Carried),
    ) -> Result<(), Refusal> {
        self.change(origin, (asked, also), |machinery, plan| {
            let is_nothing = plan.devices.is_empty() && plan.images.is_empty();
            if is_empty(bytes) && (!is_nothing || self.troubled().is_some()) {
                return Err(Refusal::invalid(
                    "line 1, column 1: an empty configuration would take every device and image away; if that is meant, write `devices: {}`",
                ));
            }
            let new = load_bytes(bytes, origin, machinery.defaults(), machinery.probe())
                .map_err(|report| self.refuse_text(bytes, &report))?;
            // It was read as text just now.
            Ok((new, Some(String::from_utf8_lossy(bytes).into())))
        })
    }

    /// Each problem is an event of its own; the last one is told as what was refused.
    fn refuse_text(&self, bytes: &[u8], report: &Report) -> Refusal {
        let line = |problem: &crate::config::Problem| {
            let place = match problem.line {
                0 => String::new(),
                line => format!("line {line}, column {}: ", problem.column),
            };
            let hint = problem.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
            format!("{place}{}{hint}", problem.message)
        };
        let mut lines: Vec<_> = report.problems.iter().map(line).collect();
        if report.left_out > 0 {
            lines.push(format!("and {} more problems", report.left_out));
        }
        let last = lines.pop().unwrap_or_default();
        lines.iter().for_each(|line| self.events.add(&format!("refused: {}: {line}", report.origin)));
        let errno = if bytes.len() as u64 > LARGEST { libc::EFBIG } else { libc::EINVAL };
        Refusal { errno, sentence: last }
    }

    /// Carries out a command of `ctl`; its answer.
    ///
    /// # Errors
    /// Why not.
    pub fn command(&self, text: &[u8], asked: Asked) -> Result<String, Refusal> {
        if self.journal.was_done(asked) {
            return Ok(String::new());
        }
        let and = (asked, |_: &mut Carried| {});
        let command = std::str::from_utf8(text)
            .map_err(|_| Refusal::invalid("a command is text in UTF-8"))
            .and_then(Command::parse)
            .inspect_err(|refusal| self.events.add(&format!("refused: {refusal}")))?;
        let title = command.title();
        match command {
            Command::Create(devices) => self.change_part(&title, and, |machinery, plan| {
                let new = edit::create_all(plan, &devices, machinery.defaults(), machinery.probe())?;
                Ok((new, None))
            }),
            Command::Remove(name) => {
                self.change_part(&title, and, |_, plan| Ok((edit::remove(plan, &name)?, None)))
            }
            Command::Message { device, message } => self.change_part(&title, and, |machinery, plan| {
                let new = edit::message(plan, &device, &message)?;
                match message {
                    Message::Reset => machinery.reset(&device),
                    Message::Reopen => machinery.reopen(&device)?,
                    _ => {}
                }
                Ok((new, None))
            }),
            Command::Save => self.save(),
            Command::Upgrade(program) => self.upgrade(&program, asked),
        }?;
        Ok(String::new())
    }

    /// Comes back only if it is refused, or was asked of a predecessor and has come about.
    fn upgrade(&self, program: &Path, asked: Asked) -> Result<(), Refusal> {
        let allowed = [0, geteuid().as_raw()].contains(&asked.uid);
        let upgraded = if allowed {
            self.machinery().and_then(|machinery| machinery.upgrade(program, asked))
        } else {
            // Whoever may change the configuration is not yet who says which programs run as this user.
            Err(Refusal::new(
                libc::EPERM,
                "only root, and the user who mounted, can say what program is to serve",
            ))
        };
        let title = Command::Upgrade(program.to_owned()).title();
        match &upgraded {
            Ok(()) => self.events.add(&format!("{title}: done")),
            Err(refusal) => self.events.add(&format!("refused: {title}: {refusal}")),
        }
        upgraded
    }

    /// Writes to the file of a setting of a device.
    ///
    /// # Errors
    /// Why not.
    pub fn set(&self, device: &str, setting: Setting, written: &str, asked: Asked) -> Result<(), Refusal> {
        let title = format!("devices/{device}/{}: {}", setting.name(), written.trim());
        self.change_part(&title, (asked, |_: &mut Carried| {}), |_, plan| {
            let here = plan.devices.iter().find(|here| here.name == device).ok_or_else(|| gone(device))?;
            let mut new = plan.clone();
            for message in setting.messages(here, written)? {
                new = edit::message(&new, device, &message)?;
            }
            Ok((new, None))
        })
    }

    /// What a file of a setting holds; `None` if the device has gone.
    pub fn setting(&self, device: &str, setting: Setting) -> Option<String> {
        let plan = self.plan();
        let here = plan.devices.iter().find(|here| here.name == device)?;
        Some(setting.text(here))
    }

    fn save(&self) -> Result<(), Refusal> {
        let _turn = self.turn();
        let text = self.yaml().0;
        // First, so that whoever watches cannot be faster.
        self.journal.change(|carried| carried.saved = Some(text.to_string()));
        let saved = self.machinery().and_then(|machinery| machinery.save(&text));
        match &saved {
            Ok(file) => self.events.add(&format!("saved to {file}")),
            Err(refusal) => {
                self.journal.change(|carried| carried.saved = None);
                self.events.add(&format!("refused: save: {refusal}"));
            }
        }
        saved.map(drop)
    }

    /// Whether this is what was just saved: not an edit, whatever has changed since. True once, and seen then.
    pub fn is_saved(&self, bytes: &[u8]) -> bool {
        if self.journal.carried().saved.is_none_or(|saved| saved.as_bytes() != bytes) {
            return false;
        }
        self.journal.change(|carried| (carried.saved, carried.seen) = (None, Some(mark(bytes))));
        true
    }

    /// Whether the configuration on disk was seen as it is now, by us or a predecessor.
    pub fn has_seen(&self, bytes: &[u8]) -> bool {
        self.journal.carried().seen == Some(mark(bytes))
    }

    /// The configuration on disk was seen like this, and nothing is to come of it.
    pub fn saw(&self, bytes: &[u8]) {
        let mark = mark(bytes);
        if self.journal.carried().seen != Some(mark) {
            self.journal.change(|carried| carried.seen = Some(mark));
        }
    }

    /// Makes a change of a part of what runs.
    fn change_part(
        &self,
        what: &str,
        and: (Asked, impl FnOnce(&mut Carried)),
        wanted: impl FnOnce(&dyn Machinery, &Plan) -> Result<Wanted, Refusal>,
    ) -> Result<(), Refusal> {
        self.change(what, and, |machinery, plan| {
            if let Some(why) = &*self.troubled() {
                return Err(Refusal::new(
                    libc::EBUSY,
                    format!(
                        "what ran is not in force, and would be lost: {why}; see to that, or correct control.yaml, and save it as a whole first"
                    ),
                ));
            }
            wanted(machinery, plan)
        })
    }

    /// Makes a change, all of it or nothing, and tells of it as `what`. It is done once, also if it is asked for again.
    fn change(
        &self,
        what: &str,
        (asked, also): (Asked, impl FnOnce(&mut Carried)),
        wanted: impl FnOnce(&dyn Machinery, &Plan) -> Result<Wanted, Refusal>,
    ) -> Result<(), Refusal> {
        let _turn = self.turn();
        if self.journal.was_done(asked) {
            return Ok(());
        }
        let old = self.plan();
        let result = self.machinery().and_then(|machinery| {
            let (wanted, text) = wanted(&**machinery, &old)?;
            let plan = settled(wanted.clone());
            let changes = plan != *old;
            let same = text.is_some() && !changes;
            let text = match text {
                // Comments go with what a message changes; one that changes nothing takes nothing away.
                None if changes => Some(printed(&plan, &old, machinery.defaults())?),
                text => text,
            };
            // Before anything is shown: who looks up users may take his time, and a death after that and before it is written down
            // takes from whoever has opened something new in between.
            let names = text.as_ref().map(|text| names_in(text, machinery.probe().accounts()));
            if changes {
                machinery.apply(&old, &wanted)?;
            }
            let text = text.unwrap_or_else(|| self.yaml().0);
            self.journal.change(|carried| {
                carried.names = names.unwrap_or_else(|| std::mem::take(&mut carried.names));
                machinery.write_down(carried);
                self.run(Running { plan: Arc::new(plan), text, changed: clock::wall() }, carried);
                also(carried);
                carried.did(asked);
            });
            Ok(same)
        });
        match &result {
            Ok(same) => {
                self.events.add(&format!("{what}: {}", if *same { "nothing changes" } else { "done" }))
            }
            Err(refusal) => self.events.add(&format!("refused: {what}: {refusal}")),
        }
        self.events.keep();
        result.map(drop)
    }

    /// Writes down what a successor must know, of what has changed by itself.
    pub fn write_down(&self) {
        let _turn = self.turn();
        self.write_down_in_turn();
    }

    /// The same without waiting for a change that is being made; whether it was done.
    pub fn try_write_down(&self) -> bool {
        let turn = self.changing.try_lock();
        if matches!(turn, Err(TryLockError::WouldBlock)) {
            return false;
        }
        self.write_down_in_turn();
        true
    }

    fn write_down_in_turn(&self) {
        if self.troubled().is_some() {
            return;
        }
        if let Ok(machinery) = self.machinery() {
            self.journal.change(|carried| machinery.write_down(carried));
        }
    }

    /// Is what runs from now on.
    fn run(&self, running: Running, carried: &mut Carried) {
        let ControlPlan { dir, owner, group, mode } = &running.plan.control;
        carried.control = Some((dir.clone(), *owner, *group, *mode));
        carried.mountpoint = running.plan.mountpoint.clone();
        carried.text = Some(running.text.to_string());
        carried.changed = Some(running.changed.into());
        carried.trouble = None;
        *self.troubled() = None;
        *self.running() = running;
    }

    /// The mount has been made like `plan`, which is what the text says: that runs from now on.
    pub fn begin(&self, plan: Plan) {
        let running = self.running().clone();
        let running = Running { plan: Arc::new(settled(plan)), ..running };
        self.journal.change(|carried| {
            // They stood for something when it ran first, and do so still.
            if carried.text.as_deref() != Some(&running.text) {
                carried.names = names_in(&running.text, &ThisMachine);
            }
            self.run(running, carried);
        });
    }

    /// What a control file holds now.
    pub fn text(&self, file: ControlFile) -> String {
        let machinery = self.machinery.get();
        let disks = || machinery.map(|machinery| machinery.disks()).unwrap_or_default();
        let plan = self.plan();
        let snapshot = |write: &dyn Fn(&Snapshot<'_>) -> String| {
            let disks = disks();
            let images = machinery.map(|machinery| machinery.images()).unwrap_or_default();
            let service = machinery.and_then(|machinery| machinery.service());
            write(&Snapshot { plan: &plan, disks: &disks, service: service.as_ref(), images: &images })
        };
        match file {
            ControlFile::Yaml => self.yaml().0.to_string(),
            ControlFile::Table => text::table(&plan),
            ControlFile::Status => text::status(&plan, &disks()),
            ControlFile::Events => self.events.text(),
            ControlFile::Pid => {
                // The one that ends last.
                let keeper = machinery.and_then(|machinery| machinery.keeper());
                format!("{}\n", keeper.unwrap_or_else(std::process::id))
            }
            ControlFile::Ctl => String::new(),
            ControlFile::Ls => snapshot(&ls::list),
            ControlFile::Metrics => snapshot(&metrics::metrics),
            ControlFile::TableJson => snapshot(&json::table_json),
            ControlFile::StatusJson => snapshot(&json::status_json),
            ControlFile::LsJson => snapshot(&json::list_json),
            ControlFile::Sandbox => machinery
                .and_then(|machinery| machinery.service())
                .map(|service| service.sandbox.to_string())
                .unwrap_or_default(),
        }
    }

    fn machinery(&self) -> Result<&Arc<dyn Machinery>, Refusal> {
        self.machinery.get().ok_or_else(|| Refusal {
            errno: libc::EAGAIN,
            sentence: "the mount is still being made; try again".to_owned(),
        })
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn troubled(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text of a plan that a command has made. What could not be read again must not come about; but a command that makes
/// it smaller is a way out.
fn printed(plan: &Plan, old: &Plan, defaults: &Defaults) -> Result<Arc<str>, Refusal> {
    let text = plan.to_yaml(defaults);
    if text.len() as u64 > LARGEST && text.len() > old.to_yaml(defaults).len() {
        let most = Bytes(LARGEST);
        return Err(Refusal::new(
            libc::ENOSPC,
            format!(
                "the configuration would be larger than {most}, and could not be saved; remove what is not needed any more"
            ),
        ));
    }
    Ok(text.into())
}

/// A file that is still to be made makes no difference once it is.
fn settled(mut plan: Plan) -> Plan {
    plan.devices.iter_mut().for_each(|device| device.create = None);
    plan
}

/// What tells a text from others.
fn mark(bytes: &[u8]) -> (u64, u32) {
    (bytes.len() as u64, crc32fast::hash(bytes))
}

/// Whether a text says nothing at all, as a file does that was emptied to be written anew.
fn is_empty(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.trim_ascii());
    lines.all(|line| line.is_empty() || line.starts_with(b"#"))
}

fn gone(device: &str) -> Refusal {
    Refusal { errno: libc::ENXIO, sentence: format!("there is no ioband device {device} any more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::DeviceEntry;
    use crate::control::tests::Nowhere;
    use crate::ledger::Ledger;

    #[test]
    fn what_could_not_begin_is_not_lost_by_a_command() {
        let journal = Arc::new(Journal::new(Arc::new(Ledger::new().unwrap())).unwrap());
        let text = "devices: {a: {path: /a}}\nimages: {a.img: {device: a}}\n";
        let known =
            DeviceEntry { path: "/a".into(), size: 1, number: None, identity: None, mark: Some("x".into()) };
        journal.change(|carried| {
            (carried.text, carried.devices) = (Some(text.to_owned()), vec![known.clone()]);
        });
        let nowhere = Nowhere::with(&["/a", "/b"]);
        let nothing = load_bytes(b"", "", &nowhere.defaults, &nowhere).unwrap();
        let control = Control::new(Arc::default(), journal.clone(), nothing, text);
        control.put_in_force_by(Arc::new(nowhere));
        control.cannot_begin("/a is in use");
        let asked = Asked::default();
        let create = b"create b 0 8 ioband /b 2 0 0 none weight 0 :100";
        for command in [&create[..], b"remove a", b"message a 0 weight 7"] {
            let refused = control.command(command, asked).unwrap_err();
            assert!(refused.errno == libc::EBUSY && refused.sentence.contains("/a is in use"), "{refused}");
        }
        // An editor that empties the file before it writes to it does not mean that.
        assert_eq!(control.replace(b"", "control.yaml", asked).unwrap_err().errno, libc::EINVAL);
        control.write_down();
        let carried = journal.carried();
        assert_eq!((carried.text.as_deref(), &carried.devices[..]), (Some(text), &[known][..]));
        assert_eq!(carried.trouble.as_deref(), Some("/a is in use"));
        // As a whole it can be in force again, and then be changed.
        control.replace(text.as_bytes(), "control.yaml", asked).unwrap();
        assert_eq!(journal.carried().trouble, None);
        control.command(create, asked).unwrap();
        assert_eq!(control.plan().devices.len(), 2);
    }
}
