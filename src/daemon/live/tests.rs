//! Workers that follow one another, without a mount: what somebody has open is what it was, or lost.

use super::*;
use crate::classify::Callers;
use crate::config::{Found, FoundKind};
use crate::control::{Asked, Control, Events, Journal};
use crate::daemon::inherit::Running;
use crate::engine::Budget;
use crate::ledger::Ledger;
use fuser::FileHandle;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Files as they are.
struct Files;

impl Probe for Files {
    fn probe(&self, path: &Path) -> io::Result<Option<Found>> {
        let Ok(found) = fs::metadata(path) else { return Ok(None) };
        let identity = Some((found.dev(), found.ino()));
        Ok(Some(Found { size: Bytes(found.len()), kind: FoundKind::File, identity, number: None }))
    }

    fn block(&self, _: u64, _: u64) -> Option<PathBuf> {
        None
    }
}

/// A worker that serves nobody but us.
struct Worker {
    folder: tempfile::TempDir,
    ledger: Arc<Ledger>,
    control: Arc<Control>,
    face: Arc<Face>,
}

impl Worker {
    /// The first one, with two disks.
    fn first(images: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for disk in ["one", "two"] {
            fs::File::create(folder.path().join(disk)).unwrap().set_len(1 << 20).unwrap();
        }
        let text = text(images);
        let ledger = Arc::new(Ledger::new().unwrap());
        let journal = Journal::new(ledger.clone()).unwrap();
        journal.change(|carried| carried.text = Some(text));
        Self::with(folder, ledger, None)
    }

    /// The next one; what ran is not in force with one that has trouble.
    fn successor(self, trouble: Option<&str>) -> Self {
        let ledger = self.ledger.descriptor().try_clone_to_owned().unwrap();
        Self::with(self.folder, Arc::new(Ledger::inherit(ledger).unwrap()), trouble)
    }

    fn with(folder: tempfile::TempDir, ledger: Arc<Ledger>, trouble: Option<&str>) -> Self {
        let events = Arc::new(Events::default());
        let journal = Arc::new(Journal::new(ledger.clone()).unwrap());
        let carried = journal.carried();
        let defaults = Defaults { owner: 0, group: 0, folder: folder.path().to_owned() };
        let Running { plan, text, .. } = Running::inherited(&carried, &defaults, &Files).unwrap();
        let nothing = Plan { devices: Vec::new(), images: Vec::new(), ..plan.clone() };
        let control = Arc::new(Control::new(events.clone(), journal, nothing.clone(), &text));
        let tree = Tree::new(plan.control.clone(), Vec::new(), Vec::new(), Vec::new()).unwrap();
        let callers = Callers::new(Wants::default()).unwrap();
        let face = Arc::new(Face::new((0, 0), tree, control.clone(), callers).unwrap());
        let engines = Arc::new(Engines::new(Budget::new(64 << 20)));
        let counted = Counted::new(ledger.clone(), engines, events);
        let file = folder.path().join("c.yaml");
        let live =
            Live::new(defaults, Box::new(Files), file, face.clone(), Clock::start(), false, counted.clone())
                .inheriting(
                    carried,
                    face.inherited_images().unwrap(),
                    trouble.is_none().then(|| plan.clone()),
                );
        let live = Arc::new(live);
        match trouble {
            Some(why) => control.cannot_begin(why),
            None => {
                live.make(&nothing, &plan).unwrap();
                control.begin(plan);
            }
        }
        control.put_in_force_by(live);
        face.go_on().unwrap();
        control.write_down();
        Self { folder, ledger, control, face }
    }

    /// Saves `control.yaml` with other images.
    fn save(&self, images: &str) -> Result<(), Refusal> {
        self.save_text(&text(images))
    }

    fn save_text(&self, text: &str) -> Result<(), Refusal> {
        self.control.replace(text.as_bytes(), "control.yaml", Asked::default())
    }

    fn node(&self, name: &str) -> Arc<ImageNode> {
        self.face.tree().named(name).unwrap().clone()
    }

    /// Who has this open finds what begins here; nothing if it is lost.
    fn behind(&self, fh: FileHandle) -> Option<u64> {
        self.face.open_image_of(fh).map(|node| node.image.extents()[0].offset.0)
    }
}

fn text(images: &str) -> String {
    format!("devices: {{d: {{path: one}}, e: {{path: two}}}}\nimages: {{{images}}}\n")
}

const HERE: &str = "a.img: {device: d, offset: 4KiB, size: 4KiB}";
const THERE: &str = "a.img: {device: d, offset: 8KiB, size: 4KiB}";

#[test]
fn what_ran_and_is_in_force_again_is_found_by_who_has_it_open() {
    let worker = Worker::first(HERE);
    let open = worker.face.open_named("a.img").unwrap();
    let worker = worker.successor(None);
    assert_eq!(worker.behind(open), Some(4096));
    let worker = worker.successor(Some("a disk is broken"));
    assert_eq!(worker.behind(open), None);
    worker.save(HERE).unwrap();
    assert_eq!(worker.behind(open), Some(4096));
}

#[test]
fn another_image_of_that_name_is_not_found_by_who_has_the_old_one_open() {
    let on_another_disk = HERE.replace("device: d", "device: e");
    let read_only = HERE.replace('}', ", read_only: true}, z.img: {device: d, offset: 64KiB, size: 4KiB}");
    let other_path = text(HERE).replace("{path: one}, e: {path: two}", "{path: two}, e: {path: one}");
    for new in [text(THERE), text(&on_another_disk), text(&read_only), other_path] {
        let worker = Worker::first(HERE);
        let open = worker.face.open_named("a.img").unwrap();
        let number = worker.node("a.img").ino;
        let worker = worker.successor(Some("a disk is broken"));
        worker.save_text(&new).unwrap();
        assert_eq!(worker.behind(open), None, "{new}");
        let now = worker.node("a.img");
        assert!(now.ino != number && now.opens() == 0, "{new}");
        // Nor later on.
        let worker = worker.successor(None);
        assert_eq!((worker.behind(open), worker.node("a.img").ino), (None, now.ino), "{new}");
        worker.save("").unwrap();
        worker.save(HERE).unwrap();
        assert_eq!(worker.behind(open), None, "{new}");
    }
}

#[test]
fn what_was_changed_of_an_image_does_not_outlast_what_the_configuration_says_of_it() {
    for (image, mode) in [(HERE.to_owned(), 0o640), (HERE.replace('}', ", mode: \"0644\"}"), 0o644)] {
        let worker = Worker::first(HERE);
        worker.face.change_mode("a.img", 0o640);
        worker.control.write_down();
        let worker = worker.successor(Some("a disk is broken"));
        worker.save(&image).unwrap();
        assert_eq!(worker.node("a.img").line().mode, mode, "{image}");
    }
}

#[test]
fn an_orphan_comes_back_on_its_own_disk_and_where_nothing_else_is_and_else_is_lost_for_good() {
    let swapped = text("").replace("{path: one}, e: {path: two}", "{path: two}, e: {path: one}");
    let without = "devices: {e: {path: two}}\nimages: {}\n".to_owned();
    let overlap = text("b.img: {device: d, offset: 0, size: 8KiB}");
    for (new, found) in
        [(text(""), Some(4096)), (text(THERE), Some(4096)), (swapped, None), (without, None), (overlap, None)]
    {
        let worker = Worker::first(HERE);
        let open = worker.face.open_named("a.img").unwrap();
        worker.save("").unwrap();
        let worker = worker.successor(Some("a disk is broken"));
        worker.save_text(&new).unwrap();
        assert_eq!(worker.behind(open), found, "{new}");
        let worker = worker.successor(None);
        assert_eq!(worker.behind(open), found, "{new}");
        // Another one of its name is another one.
        if found.is_none() {
            let other = "images: {a.img: {device: e, offset: 8KiB, size: 4KiB}, ";
            worker.save_text(&new.replace("images: {", other)).unwrap();
            assert_eq!(worker.behind(open), None, "{new}");
        }
    }
}

#[test]
fn an_orphan_that_nobody_has_open_is_closed_to_who_still_knows_its_number() {
    let worker = Worker::first(HERE);
    let open = worker.face.open_named("a.img").unwrap();
    let orphan = worker.node("a.img");
    worker.save("").unwrap();
    worker.face.close_again(open);
    worker.save(THERE).unwrap();
    assert!(!orphan.open());
    assert_ne!(worker.node("a.img").ino, orphan.ino);
}

#[test]
fn an_image_that_becomes_another_one_has_another_number() {
    let worker = Worker::first(HERE);
    let was = worker.node("a.img");
    worker.save(THERE).unwrap();
    assert!(worker.node("a.img").ino != was.ino && !was.open());
    // Also later on.
    let now = worker.node("a.img").ino;
    let worker = worker.successor(None);
    assert_eq!(worker.node("a.img").ino, now);
}
