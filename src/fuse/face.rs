//! What a mount shows, and who looks at it: what there is under a number or a name, and its attributes.

use super::control_dir::Absence;
use super::handles::Handle;
use super::node::folder_attr;
use super::open_files::OpenFiles;
use super::scratch::Scratch;
use super::tree::{Node, Tree};
use super::waiting::Waiting;
use crate::classify::{Callers, Ending};
use crate::clock;
use crate::control::{Control, ControlFile, Events};
use arc_swap::ArcSwap;
use fuser::{Errno, FileAttr, FileHandle, Generation, INodeNo};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

/// How long the kernel may answer for us: what there is, and whose it is, can be another thing at any time. The bytes of
/// images are not concerned.
pub(super) const TTL: Duration = Duration::ZERO;
pub(super) const GENERATION: Generation = Generation(0);

/// Work that may wait: for the device for metadata, or for a change of the configuration.
pub(super) type SlowWork = Box<dyn FnOnce() + Send>;

/// What a mount shows, and who looks at it: for fuser, and for the threads that serve data.
pub struct Face {
    /// Whose the mount is.
    owner: (u32, u32),
    /// When it was mounted: the time of its folders.
    mounted: SystemTime,
    pub(super) tree: ArcSwap<Tree>,
    pub(super) control: Arc<Control>,
    pub(super) callers: Callers,
    pub(super) open_files: OpenFiles,
    pub(super) scratch: Scratch,
    /// The running configuration was removed by somebody who is about to make it anew.
    pub(super) absence: Absence,
    /// Who waits for events.
    pub(super) waiting: Arc<Waiting>,
    /// Threads of their own for what may wait for a disk: requests are read by threads that must not.
    pub(super) slow: SlowLanes,
    /// Another one for changes, which come one after the other and may take their time.
    pub(super) changes: mpsc::Sender<SlowWork>,
    /// Who is asked how threads end.
    endings: OnceLock<AskEnding>,
}

type AskEnding = Box<dyn Fn(u32) -> Option<Ending> + Send + Sync>;

impl std::fmt::Debug for Face {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Face").field("tree", &self.tree.load()).finish_non_exhaustive()
    }
}

impl Face {
    /// A filesystem of `owner` (uid, gid) that shows `tree` and tells callers apart with `callers`.
    ///
    /// # Errors
    /// When its helper threads cannot be started.
    pub fn new(owner: (u32, u32), tree: Tree, control: Arc<Control>, callers: Callers) -> io::Result<Self> {
        let waiting = Arc::new(Waiting::default());
        let events = control.events().clone();
        events.on_new({
            let waiting = waiting.clone();
            move || waiting.wake()
        });
        let ledger = control.journal().ledger().clone();
        let carried = control.journal().carried();
        Ok(Self {
            owner,
            mounted: carried.mounted.map_or_else(clock::wall, SystemTime::from),
            tree: ArcSwap::from_pointee(tree),
            control,
            callers,
            open_files: OpenFiles::new(ledger.clone()),
            scratch: Scratch::new(ledger),
            absence: Absence::since(carried.absent),
            waiting,
            slow: SlowLanes { lanes: Mutex::default(), events: events.clone() },
            changes: lane("changes", events)?,
            endings: OnceLock::new(),
        })
    }

    /// What is to be seen now.
    pub fn tree(&self) -> Arc<Tree> {
        self.tree.load_full()
    }

    /// Shows another tree from now on.
    pub fn show(&self, tree: Tree) {
        self.tree.store(Arc::new(tree));
        self.find_lost();
    }

    /// When the mount was made.
    pub(super) fn mounted(&self) -> SystemTime {
        self.mounted
    }

    /// The callers of the mount.
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// How threads end is asked of somebody who may know more than this process.
    pub fn ask_about_endings(&self, ask: impl Fn(u32) -> Option<Ending> + Send + Sync + 'static) {
        // Once.
        let _ = self.endings.set(Box::new(ask));
    }

    /// How a thread comes to an end, if it is at its end and did not get there in peace.
    pub(super) fn ending_of(&self, thread: u32) -> Option<Ending> {
        self.endings.get().map_or_else(|| Ending::of_thread(thread), |ask| ask(thread))
    }

    pub(super) fn events(&self) -> &Events {
        self.control.events()
    }

    pub(super) fn handle(&self, fh: FileHandle) -> Option<Arc<Handle>> {
        self.open_files.get(fh)
    }

    pub(super) fn node(&self, ino: INodeNo) -> Option<Node> {
        let scratch = || self.scratch.numbered(ino);
        self.tree.load().node(ino).or_else(|| scratch().map(Node::Scratch))
    }

    pub(super) fn look_up(&self, parent: INodeNo, name: &OsStr) -> Option<Node> {
        let name = name.to_str()?;
        let tree = self.tree.load();
        let folder = tree.node(parent)?;
        let scratch = || matches!(folder, Node::ControlDir).then(|| self.scratch.named(name)).flatten();
        let found = tree.lookup(&folder, name).or_else(|| scratch().map(Node::Scratch));
        found.filter(|node| !self.is_absent(node))
    }

    /// Whether it does as if it were not there.
    fn is_absent(&self, node: &Node) -> bool {
        matches!(node, Node::ControlFile(ControlFile::Yaml)) && self.absence.lasts()
    }

    pub(super) fn attr(&self, node: &Node) -> FileAttr {
        let ino = node.ino();
        let folder = |mode| {
            let plan = &self.tree.load().plan;
            folder_attr(ino, mode, (plan.owner, plan.group), self.mounted)
        };
        match node {
            Node::Root => folder_attr(ino, 0o755, self.owner, self.mounted),
            Node::ControlDir | Node::Devices | Node::Device(_) => {
                // Whoever may read the files may enter the folder.
                let mode = self.tree.load().plan.mode;
                folder(mode | (mode & 0o444) >> 2)
            }
            Node::ControlFile(_) | Node::Setting(..) => self.text_attr(node),
            Node::Scratch(file) => file.attr(),
            Node::Image(node) => node.attr(),
        }
    }

    /// Entries of a folder from `offset` on, with `.` and `..`, until `add` says that the buffer is full.
    pub(super) fn list(
        &self,
        ino: INodeNo,
        offset: u64,
        mut add: impl FnMut(u64, &str, &FileAttr) -> bool,
    ) -> Result<(), Errno> {
        let folder = self.node(ino).ok_or(Errno::ESTALE)?;
        let mut entries = self.tree.load().entries(&folder).ok_or(Errno::ENOTDIR)?;
        entries.retain(|(_, node)| !self.is_absent(node));
        if matches!(folder, Node::ControlDir) {
            entries.extend(self.scratch.all().into_iter().map(|(name, file)| (name, Node::Scratch(file))));
        }
        let dots = [(".".to_owned(), folder.clone()), ("..".to_owned(), folder.parent())];
        let all = dots.into_iter().chain(entries);
        for (index, (name, node)) in (1..).zip(all).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if add(index, &name, &self.attr(&node)) {
                break;
            }
        }
        Ok(())
    }

    /// Whether a name in a folder is an editor's to make, rename or remove.
    pub(super) fn is_scratch(&self, parent: INodeNo, name: &OsStr) -> Result<String, Errno> {
        if !matches!(self.node(parent), Some(Node::ControlDir)) {
            return Err(self.refuse_new_name(name));
        }
        let named = name.to_str().filter(|name| self.tree.load().lookup(&Node::ControlDir, name).is_none());
        named.map(str::to_owned).ok_or_else(|| self.refuse_new_name(name))
    }

    pub(super) fn refuse_new_name(&self, name: &OsStr) -> Errno {
        self.events().add_of_callers(&format!(
            "refused: making, renaming or removing {:?}: images and devices come from the configuration; edit control.yaml",
            name.to_string_lossy()
        ));
        Errno::EPERM
    }
}

/// A thread for each disk that there is something for that may wait for it: one that hangs keeps nobody from the others.
pub(super) struct SlowLanes {
    /// By the numbers of the disks' engines; they are never more than these.
    lanes: Mutex<HashMap<u16, mpsc::Sender<SlowWork>>>,
    events: Arc<Events>,
}

impl SlowLanes {
    /// Has it done by the thread of this disk, after what that was sent before. It is dropped where there is none to be had.
    pub(super) fn send(&self, engine: u16, work: SlowWork) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = match lanes.entry(engine) {
            Entry::Occupied(lane) => lane.into_mut(),
            Entry::Vacant(place) => match lane(&format!("slow-lane-{engine}"), self.events.clone()) {
                Ok(lane) => place.insert(lane),
                Err(error) => return tracing::warn!(%error, "no thread for what may wait for a disk"),
            },
        };
        // It goes on after whatever happens in it.
        let _ = lane.send(work);
    }
}

/// A thread that does what it is sent, in its order.
fn lane(name: &str, events: Arc<Events>) -> io::Result<mpsc::Sender<SlowWork>> {
    let (lane, all) = mpsc::channel::<SlowWork>();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        for work in all {
            // Whoever asked gets EIO for a reply that is dropped. The next one is to find somebody here.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                events.add("what was asked for failed inside ioband; its log says where");
            }
        }
    })?;
    Ok(lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_keeps_nobody_waiting_for_another() {
        let lanes = SlowLanes { lanes: Mutex::default(), events: Arc::default() };
        let (release, hangs) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let say = |what: &'static str| {
            let tell = tell.clone();
            move || tell.send(what).expect("somebody listens")
        };
        lanes.send(0, Box::new(move || _ = hangs.recv()));
        lanes.send(0, Box::new(say("after it")));
        lanes.send(1, Box::new(say("of another disk")));
        assert_eq!(told.recv(), Ok("of another disk"));
        drop(release);
        assert_eq!(told.recv(), Ok("after it"));
        assert_eq!(lanes.lanes.lock().unwrap().len(), 2);
    }
}
