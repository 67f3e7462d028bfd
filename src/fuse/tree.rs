//! What there is to see in a mount at one moment: the images, and the control directory with its files and folders.
//!
//! A tree does not change. Another configuration is another tree, and whoever works with one keeps it for so long.

use super::node::{IMAGE_BIT, ImageNode, name_hash};
use super::scratch::ScratchFile;
use crate::config::ControlPlan;
use crate::control::{ControlFile, Setting};
use fuser::INodeNo;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) const CONTROL_DIR: INodeNo = INodeNo(2);
const FIRST_CONTROL_FILE: u64 = 3;
const DEVICES_DIR: INodeNo = INodeNo(1 << 32);
/// The name of the folder of devices in the control directory.
pub(super) const DEVICES: &str = "devices";
/// Inode numbers of what belongs to an ioband device have this bit; which of its files it is stands in the last ones.
const DEVICE_BIT: u64 = 1 << 61;
const SETTING_BITS: u32 = 4;
const SETTING_MASK: u64 = (1 << SETTING_BITS) - 1;

/// Two files whose names give the same inode number.
#[derive(Debug, thiserror::Error)]
#[error("{0} and {1} get the same inode number; rename one of them")]
pub struct TreeError(String, String);

/// Anything in the mount.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Root,
    ControlDir,
    ControlFile(ControlFile),
    /// What an editor keeps beside the files of the control directory.
    Scratch(Arc<ScratchFile>),
    /// The folder of the devices.
    Devices,
    /// The folder of one device.
    Device(Arc<str>),
    /// A file in it.
    Setting(Arc<str>, Setting),
    Image(Arc<ImageNode>),
}

/// The whole mount.
#[derive(Debug)]
pub struct Tree {
    pub(super) plan: ControlPlan,
    images: Vec<Arc<ImageNode>>,
    devices: Vec<Arc<str>>,
    by_name: HashMap<String, Arc<ImageNode>>,
    /// Also those that are removed and still open.
    by_inode: HashMap<u64, Arc<ImageNode>>,
    by_device: HashMap<u64, Arc<str>>,
}

impl Tree {
    /// A mount with these ioband devices and images. `removed` are images that are open and not to be found any more.
    ///
    /// # Errors
    /// When two names give the same inode number.
    pub fn new(
        plan: ControlPlan,
        devices: Vec<Arc<str>>,
        images: Vec<Arc<ImageNode>>,
        removed: Vec<Arc<ImageNode>>,
    ) -> Result<Self, TreeError> {
        let mut by_inode: HashMap<u64, Arc<ImageNode>> = HashMap::new();
        for node in images.iter().chain(&removed) {
            if let Some(other) = by_inode.insert(node.ino.0, node.clone()) {
                return Err(TreeError(other.image.name().to_owned(), node.image.name().to_owned()));
            }
        }
        let mut by_device: HashMap<u64, Arc<str>> = HashMap::new();
        for name in &devices {
            if let Some(other) = by_device.insert(device_inode(name), name.clone()) {
                return Err(TreeError(other.to_string(), name.to_string()));
            }
        }
        let by_name = images.iter().map(|node| (node.image.name().to_owned(), node.clone())).collect();
        Ok(Self { plan, images, devices, by_name, by_inode, by_device })
    }

    /// How the control directory is to be.
    pub(super) fn control(&self) -> &ControlPlan {
        &self.plan
    }

    /// The images, in the order of the configuration.
    pub fn images(&self) -> &[Arc<ImageNode>] {
        &self.images
    }

    /// The images that are not in the configuration any more. They were open when this tree was made.
    pub fn removed(&self) -> impl Iterator<Item = &Arc<ImageNode>> {
        self.by_inode.values().filter(|node| node.is_removed())
    }

    /// Whether an inode number stands for an image.
    pub fn has(&self, ino: INodeNo) -> bool {
        self.by_inode.contains_key(&ino.0)
    }

    /// The image of that name.
    pub fn named(&self, name: &str) -> Option<&Arc<ImageNode>> {
        self.by_name.get(name)
    }

    pub(super) fn image(&self, ino: INodeNo) -> Option<&Arc<ImageNode>> {
        self.by_inode.get(&ino.0)
    }

    /// What has this inode number, except for scratch files, which are not in the tree.
    pub(super) fn node(&self, ino: INodeNo) -> Option<Node> {
        let INodeNo(number) = ino;
        match ino {
            INodeNo::ROOT => Some(Node::Root),
            CONTROL_DIR => Some(Node::ControlDir),
            DEVICES_DIR => Some(Node::Devices),
            _ if number & IMAGE_BIT != 0 => self.by_inode.get(&number).cloned().map(Node::Image),
            _ if number & DEVICE_BIT != 0 => {
                let device = self.by_device.get(&(number & !SETTING_MASK))?.clone();
                // The folder of the device comes before its files.
                match usize::try_from(number & SETTING_MASK).ok()?.checked_sub(1) {
                    None => Some(Node::Device(device)),
                    Some(index) => Some(Node::Setting(device, *Setting::ALL.get(index)?)),
                }
            }
            _ => {
                let index = usize::try_from(number.checked_sub(FIRST_CONTROL_FILE)?).ok()?;
                ControlFile::ALL.get(index).copied().map(Node::ControlFile)
            }
        }
    }

    /// What a folder has under a name, except for scratch files.
    pub(super) fn lookup(&self, folder: &Node, name: &str) -> Option<Node> {
        match folder {
            Node::Root if name == self.plan.dir => Some(Node::ControlDir),
            Node::Root => self.by_name.get(name).cloned().map(Node::Image),
            Node::ControlDir if name == DEVICES => Some(Node::Devices),
            Node::ControlDir => {
                ControlFile::ALL.into_iter().find(|f| f.name() == name).map(Node::ControlFile)
            }
            Node::Devices => self.devices.iter().find(|device| &***device == name).cloned().map(Node::Device),
            Node::Device(device) => {
                let setting = Setting::ALL.into_iter().find(|setting| setting.name() == name)?;
                Some(Node::Setting(device.clone(), setting))
            }
            Node::ControlFile(_) | Node::Scratch(_) | Node::Setting(..) | Node::Image(_) => None,
        }
    }

    /// The entries of a folder after `.` and `..`, except for scratch files; `None` if it is none.
    pub(super) fn entries(&self, folder: &Node) -> Option<Vec<(String, Node)>> {
        Some(match folder {
            Node::Root => {
                let images = self.images.iter();
                let images = images.map(|node| (node.image.name().to_owned(), Node::Image(node.clone())));
                std::iter::once((self.plan.dir.clone(), Node::ControlDir)).chain(images).collect()
            }
            Node::ControlDir => {
                let files = ControlFile::ALL.into_iter();
                let files = files.map(|file| (file.name().to_owned(), Node::ControlFile(file)));
                std::iter::once((DEVICES.to_owned(), Node::Devices)).chain(files).collect()
            }
            Node::Devices => {
                self.devices.iter().map(|name| (name.to_string(), Node::Device(name.clone()))).collect()
            }
            Node::Device(device) => {
                let settings = Setting::ALL.into_iter();
                settings
                    .map(|setting| (setting.name().to_owned(), Node::Setting(device.clone(), setting)))
                    .collect()
            }
            Node::ControlFile(_) | Node::Scratch(_) | Node::Setting(..) | Node::Image(_) => return None,
        })
    }
}

impl Node {
    /// Its inode number.
    pub(super) fn ino(&self) -> INodeNo {
        match self {
            Self::Root => INodeNo::ROOT,
            Self::ControlDir => CONTROL_DIR,
            Self::ControlFile(file) => INodeNo(FIRST_CONTROL_FILE + *file as u64),
            Self::Scratch(file) => file.ino,
            Self::Devices => DEVICES_DIR,
            Self::Device(device) => INodeNo(device_inode(device)),
            Self::Setting(device, setting) => INodeNo(device_inode(device) + 1 + *setting as u64),
            Self::Image(node) => node.ino,
        }
    }

    /// The folder it is in.
    pub(super) fn parent(&self) -> Node {
        match self {
            Self::Root | Self::ControlDir | Self::Image(_) => Self::Root,
            Self::ControlFile(_) | Self::Scratch(_) | Self::Devices => Self::ControlDir,
            Self::Device(_) => Self::Devices,
            Self::Setting(device, _) => Self::Device(device.clone()),
        }
    }
}

/// The inode number of the folder of a device; those of its files follow.
fn device_inode(name: &str) -> u64 {
    (name_hash(name, 0) >> 3 | DEVICE_BIT) & !SETTING_MASK
}

// The files of a device have numbers of their own.
const _: () = assert!(Setting::ALL.len() < 1 << SETTING_BITS);
