//! What there is to see in a mount: the images, and the control directory with its files.

use crate::clock;
use crate::config::ControlPlan;
use crate::control::{Control, ControlFile, ImageLine};
use crate::engine::{Engine, Image};
use crate::units::Bytes;
use fuser::{FileAttr, FileType, INodeNo};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

const CONTROL_DIR: u64 = 2;
const FIRST_CONTROL_FILE: u64 = 3;
/// Image inode numbers have this bit, so that they never meet the fixed ones.
const IMAGE_BIT: u64 = 1 << 62;
/// What tools take as the best size of a request.
const BLOCK_SIZE: u32 = 4096;

/// Two images whose names give the same inode number.
#[derive(Debug, thiserror::Error)]
#[error("the images {0} and {1} get the same inode number; rename one of them")]
pub struct TreeError(String, String);

/// An image as a file.
#[derive(Debug)]
pub struct ImageNode {
    /// Its inode number.
    pub ino: INodeNo,
    /// What it is.
    pub image: Arc<Image>,
    /// The disk it is on.
    pub engine: Arc<Engine>,
    /// Writes are refused.
    pub read_only: bool,
    meta: Mutex<Meta>,
}

/// What chmod, chown and utimes change. It belongs to the running state and ends with the mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: SystemTime,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
}

impl ImageNode {
    /// An image with its owner and mode.
    pub fn new(
        image: Arc<Image>,
        engine: Arc<Engine>,
        read_only: bool,
        owner: (u32, u32),
        mode: u16,
    ) -> Self {
        let now = clock::wall();
        let meta = Meta { mode, uid: owner.0, gid: owner.1, atime: now, mtime: now, ctime: now };
        Self { ino: inode_of(image.name()), image, engine, read_only, meta: Mutex::new(meta) }
    }

    pub(super) fn meta(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that it was written to.
    pub(super) fn touch(&self, now: SystemTime) {
        self.meta().mtime = now;
    }

    /// As `ls` shows it.
    fn line(&self) -> ImageLine {
        let meta = *self.meta();
        ImageLine {
            name: self.image.name().to_owned(),
            device: self.image.band(),
            size: Bytes(self.image.size()),
            read_only: self.read_only,
            mode: meta.mode,
            owner: (meta.uid, meta.gid),
        }
    }

    pub(super) fn attr(&self) -> FileAttr {
        let meta = *self.meta();
        let size = self.image.size();
        FileAttr {
            size,
            blocks: size / 512,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            ..attr(self.ino, FileType::RegularFile, meta.mode, (meta.uid, meta.gid), meta.ctime)
        }
    }
}

/// The inode number of an image follows from its name, so that it is the same in the next daemon: FNV-1a.
fn inode_of(name: &str) -> INodeNo {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    INodeNo(hash >> 2 | IMAGE_BIT)
}

fn attr(ino: INodeNo, kind: FileType, perm: u16, (uid, gid): (u32, u32), time: SystemTime) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid,
        gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Anything in the mount.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Root,
    ControlDir,
    ControlFile(ControlFile),
    Image(Arc<ImageNode>),
}

/// One line of a directory listing.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) attr: FileAttr,
}

/// The whole mount.
#[derive(Debug)]
pub struct Tree {
    owner: (u32, u32),
    /// When it was mounted: the time of its folders.
    mounted: SystemTime,
    plan: ControlPlan,
    pub(super) control: Control,
    images: Vec<Arc<ImageNode>>,
    by_name: HashMap<String, Arc<ImageNode>>,
    by_inode: HashMap<u64, Arc<ImageNode>>,
}

impl Tree {
    /// A mount owned by `owner` (uid, gid) with these images.
    ///
    /// # Errors
    /// When two names give the same inode number.
    pub fn new(
        owner: (u32, u32),
        plan: ControlPlan,
        control: Control,
        images: Vec<ImageNode>,
    ) -> Result<Self, TreeError> {
        let images: Vec<_> = images.into_iter().map(Arc::new).collect();
        let mut by_inode: HashMap<u64, Arc<ImageNode>> = HashMap::new();
        for node in &images {
            if let Some(other) = by_inode.insert(node.ino.0, node.clone()) {
                return Err(TreeError(other.image.name().to_owned(), node.image.name().to_owned()));
            }
        }
        let by_name = images.iter().map(|node| (node.image.name().to_owned(), node.clone())).collect();
        Ok(Self { owner, mounted: clock::wall(), plan, control, images, by_name, by_inode })
    }

    pub(super) fn node(&self, ino: INodeNo) -> Option<Node> {
        let control_file = || {
            let index = usize::try_from(ino.0.checked_sub(FIRST_CONTROL_FILE)?).ok()?;
            ControlFile::ALL.get(index).copied().map(Node::ControlFile)
        };
        match ino {
            INodeNo::ROOT => Some(Node::Root),
            INodeNo(CONTROL_DIR) => Some(Node::ControlDir),
            INodeNo(number) if number & IMAGE_BIT != 0 => {
                self.by_inode.get(&number).cloned().map(Node::Image)
            }
            _ => control_file(),
        }
    }

    pub(super) fn image(&self, ino: INodeNo) -> Option<&Arc<ImageNode>> {
        self.by_inode.get(&ino.0)
    }

    /// What a control file holds now.
    pub(super) fn text(&self, file: ControlFile) -> String {
        self.control.text(file, || self.images.iter().map(|node| node.line()).collect())
    }

    pub(super) fn images(&self) -> &[Arc<ImageNode>] {
        &self.images
    }

    pub(super) fn lookup(&self, parent: INodeNo, name: &OsStr) -> Option<Node> {
        let name = name.to_str()?;
        match self.node(parent)? {
            Node::Root if name == self.plan.dir => Some(Node::ControlDir),
            Node::Root => self.by_name.get(name).cloned().map(Node::Image),
            Node::ControlDir => {
                ControlFile::ALL.into_iter().find(|f| f.name() == name).map(Node::ControlFile)
            }
            Node::ControlFile(_) | Node::Image(_) => None,
        }
    }

    pub(super) fn attr(&self, node: &Node) -> FileAttr {
        let owner = (self.plan.owner, self.plan.group);
        match node {
            Node::Root => attr(INodeNo::ROOT, FileType::Directory, 0o755, self.owner, self.mounted),
            Node::ControlDir => {
                // Whoever may read the files may enter the folder.
                let mode = self.plan.mode | (self.plan.mode & 0o444) >> 2;
                attr(INodeNo(CONTROL_DIR), FileType::Directory, mode, owner, self.mounted)
            }
            Node::ControlFile(file) => {
                let ino = INodeNo(FIRST_CONTROL_FILE + *file as u64);
                let size = self.text(*file).len() as u64;
                // Written anew at every look.
                let now = clock::wall();
                FileAttr { size, ..attr(ino, FileType::RegularFile, self.plan.mode & 0o444, owner, now) }
            }
            Node::Image(node) => node.attr(),
        }
    }

    /// The entries of a folder after `.` and `..`; `None` if it is none.
    pub(super) fn entries(&self, folder: &Node) -> Option<Vec<Entry>> {
        let entry = |name: &str, node: Node| Entry { name: name.to_owned(), attr: self.attr(&node) };
        match folder {
            Node::Root => {
                let control = entry(&self.plan.dir, Node::ControlDir);
                let images =
                    self.images.iter().map(|node| entry(node.image.name(), Node::Image(node.clone())));
                Some(std::iter::once(control).chain(images).collect())
            }
            Node::ControlDir => {
                Some(ControlFile::ALL.into_iter().map(|f| entry(f.name(), Node::ControlFile(f))).collect())
            }
            Node::ControlFile(_) | Node::Image(_) => None,
        }
    }
}
