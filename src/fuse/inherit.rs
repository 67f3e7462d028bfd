//! Going on with what a predecessor had: what editors keep, and every open file under its number.

use super::face::Face;
use super::handles::Handle;
use super::kept::{KeptDraft, KeptTransaction};
use super::open_files::{OpenFiles, What};
use super::tree::Node;
use crate::classify::Identity;
use crate::clock;
use crate::config::LARGEST;
use crate::control::Carried;
use crate::ledger::{Ledger, LedgerError};
use fuser::INodeNo;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, OnceLock};
#[cfg(test)]
use {super::node::ImageNode, crate::control::Asked, fuser::FileHandle, std::sync::Arc};

impl Face {
    /// Goes on with the open files of a predecessor, once the tree is the one that it had. What is not there any more stays
    /// open as lost, until it is.
    ///
    /// # Errors
    /// When what was kept cannot be read or makes no sense.
    pub fn go_on(&self) -> Result<(), LedgerError> {
        let journal = self.control.journal();
        let ledger = journal.ledger();
        let scratch = self.scratch.go_on(&journal.carried());
        let scratch: HashMap<u64, _> = scratch.into_iter().map(|file| (file.ino.0, file)).collect();
        let mut files = Vec::new();
        for (index, entry) in OpenFiles::inherited(ledger)? {
            let handle = match &entry.what {
                What::Image { .. } => self.image_handle(&entry.what),
                What::Text { ino } => Some(Handle::Later { ino: *ino, text: OnceLock::new() }),
                What::Draft => {
                    let draft = KeptDraft::go_on(ledger.clone(), index, LARGEST as usize + 1);
                    found(draft).map(|draft| Handle::Draft(Mutex::new(draft)))
                }
                What::Scratch { ino } => scratch.get(ino).cloned().map(Handle::Scratch),
                What::Transaction => {
                    let transaction = KeptTransaction::go_on(ledger.clone(), index);
                    found(transaction).map(|said| Handle::Transaction(Mutex::new(said)))
                }
                What::Setting { ino } => match self.node(INodeNo(*ino)) {
                    Some(Node::Setting(device, setting)) => {
                        let text = self.control.setting(&device, setting).unwrap_or_default().into_bytes();
                        Some(Handle::Setting { device, setting, text })
                    }
                    _ => None,
                },
                What::Events { follower, .. } => Some(Handle::Events(Mutex::new(*follower))),
            };
            files.push((index, entry, handle.unwrap_or(Handle::Lost)));
        }
        self.open_files.go_on(files);
        Ok(())
    }

    /// The text of a file that is read as it was when it was opened: it is as it is now.
    pub(super) fn text_of(&self, ino: u64) -> Option<Vec<u8>> {
        match self.node(INodeNo(ino))? {
            Node::ControlFile(file) => Some(self.control.text(file).into_bytes()),
            Node::Setting(device, setting) => self.control.setting(&device, setting).map(String::into_bytes),
            _ => None,
        }
    }

    /// An image that is open, and counted as that.
    fn image_handle(&self, what: &What) -> Option<Handle> {
        let What::Image { ino, opener } = what else { return None };
        let node = self.tree().image(INodeNo(*ino))?.clone();
        if !node.open() {
            return None;
        }
        if !node.read_only {
            // It may have been written to since that was written down last.
            node.touch(clock::wall());
        }
        Some(Handle::Image { node, opener: Identity::from(opener.clone()) })
    }

    /// What was lost may be there again, since there is another tree.
    pub(super) fn find_lost(&self) {
        for (fh, what) in self.open_files.lost() {
            let Some(found) = self.image_handle(&what) else { continue };
            // Whoever has closed it meanwhile has not closed this.
            if let Some(Handle::Image { node, .. }) = self.open_files.found_again(fh, found) {
                node.close();
            }
        }
    }

    /// The inode numbers of images that are open and not there. Another image is not to have one of them: who has that open would
    /// find it.
    pub fn lost_images(&self) -> HashSet<INodeNo> {
        let image = |(_, what)| match what {
            What::Image { ino, .. } => Some(INodeNo(ino)),
            _ => None,
        };
        self.open_files.lost().into_iter().filter_map(image).collect()
    }

    /// Says what a successor must know of the images: what the configuration does not say. What is lost by now stays lost: of its
    /// device there may be only the name.
    pub fn write_down(&self, carried: &mut Carried) {
        let tree = self.tree();
        carried.mounted = Some(self.mounted().into());
        carried.images = tree.images().iter().filter_map(|node| node.entry()).collect();
        let open = tree.removed().filter(|node| node.opens() > 0);
        carried.orphans = open.map(|node| node.orphan()).collect();
    }

    /// Whether what was open makes sense to this program.
    ///
    /// # Errors
    /// It does not, or cannot be read.
    pub fn understands(ledger: &Ledger) -> Result<(), LedgerError> {
        OpenFiles::inherited(ledger).map(drop)
    }

    /// Forgets what a predecessor had opened for requests that were refused since.
    ///
    /// # Errors
    /// When what was kept cannot be read or makes no sense.
    pub fn forget(ledger: &Ledger, refused: &[u64]) -> Result<(), LedgerError> {
        OpenFiles::forget(ledger, refused)
    }

    /// Whether somebody had this image open when a predecessor served.
    ///
    /// # Errors
    /// When what was kept cannot be read or makes no sense.
    pub fn inherited_images(&self) -> Result<Vec<u64>, LedgerError> {
        let open = OpenFiles::inherited(self.control.journal().ledger())?;
        let image = |what: &What| match what {
            What::Image { ino, .. } => Some(*ino),
            _ => None,
        };
        Ok(open.iter().filter_map(|(_, entry)| image(&entry.what)).collect())
    }

    /// By which numbers the kernel knows who waited for events when a predecessor served. They are to be told to look again:
    /// what they wait for is not known to anybody else by now.
    pub(super) fn inherited_waiting(&self) -> Vec<u64> {
        let waiting = |what: &What| match what {
            What::Events { waiting, .. } => *waiting,
            _ => None,
        };
        self.open_files.entries().iter().filter_map(|(_, what)| waiting(what)).collect()
    }
}

/// What was kept of one file. The others are not to suffer if that makes no sense.
fn found<T>(kept: Result<T, LedgerError>) -> Option<T> {
    kept.inspect_err(|error| tracing::warn!(%error, "an open file is lost")).ok()
}

#[cfg(test)]
impl Face {
    /// Somebody opens an image.
    pub fn open_named(&self, name: &str) -> Option<FileHandle> {
        let node = self.tree().named(name)?.clone();
        assert!(node.open());
        let opener = Identity::from_ids(0, 0);
        let what = What::Image { ino: node.ino.0, opener: (&opener).into() };
        self.open_files.add(Asked::default(), what, |_| Handle::Image { node, opener }).ok()
    }

    /// And closes it.
    pub fn close_again(&self, fh: FileHandle) {
        self.close(fh);
    }

    /// The image that is open under a number, unless it is lost.
    pub fn open_image_of(&self, fh: FileHandle) -> Option<Arc<ImageNode>> {
        match &*self.handle(fh)? {
            Handle::Image { node, .. } => Some(node.clone()),
            _ => None,
        }
    }

    /// Somebody changes the mode of an image.
    pub fn change_mode(&self, name: &str, mode: u16) {
        let tree = self.tree();
        if let Some(node) = tree.named(name) {
            let mut meta = node.meta();
            (meta.mode, meta.changed) = (mode, true);
        }
    }
}
