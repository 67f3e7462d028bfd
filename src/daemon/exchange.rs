//! Images that go, or become other ones, while somebody may have them open: who may keep what, and who is in the way.

use crate::config::{ImagePlan, Plan};
use crate::control::Refusal;
use crate::fuse::{ImageNode, Tree};
use std::collections::HashSet;
use std::sync::Arc;

/// Closes to new openers the images that go, and those that become other ones, which nobody may have open. Those that go
/// and that somebody has open.
pub(super) fn close_what_changes(
    tree: &Tree,
    new: &Plan,
    stays: &HashSet<&str>,
    sealed: &mut Vec<Arc<ImageNode>>,
) -> Result<Vec<Arc<ImageNode>>, Refusal> {
    let mut leaving = Vec::new();
    for node in tree.images() {
        let name = node.image.name();
        let wanted = new.images.iter().find(|image| image.name == name);
        let device_stays = stays.contains(&*node.device);
        match wanted {
            Some(wanted) if device_stays && is_like(node, wanted, new) => continue,
            // Who has it open keeps it.
            None if device_stays && node.seal().is_err() => {
                leaving.push(node.clone());
                continue;
            }
            _ => {}
        }
        node.seal().map_err(|opens| {
            let what = match wanted {
                Some(_) if device_stays => format!("image {name} cannot become another one"),
                _ => format!("device {} cannot be taken away or become another one", node.device),
            };
            in_use(&what, name, opens)
        })?;
        sealed.push(node.clone());
    }
    Ok(leaving)
}

/// The images that nobody finds any more and somebody has open. Nothing else may be in their place. Those that nobody has open by
/// now go, and are closed to whoever still knows their numbers.
pub(super) fn removed(
    leaving: Vec<Arc<ImageNode>>,
    tree: &Tree,
    new: &Plan,
    stays: &HashSet<&str>,
    sealed: &mut Vec<Arc<ImageNode>>,
) -> Result<Vec<Arc<ImageNode>>, Refusal> {
    let (gone, open): (Vec<_>, Vec<_>) = tree.removed().cloned().partition(|node| node.seal().is_ok());
    sealed.extend(gone);
    let removed: Vec<_> = leaving.into_iter().chain(open).collect();
    for node in &removed {
        let name = node.image.name();
        if !stays.contains(&*node.device) {
            return Err(in_use(&format!("device {} cannot be taken away", node.device), name, node.opens()));
        }
        if is_wanted(node, new) {
            continue;
        }
        if let Some(image) = in_place_of(node, new) {
            let what = format!("image {} cannot be where image {name} was", image.name);
            return Err(in_use(&what, name, node.opens()));
        }
    }
    Ok(removed)
}

/// The image of a plan that would be where this one is, if there is one. Two that are only read do not mind each other.
pub(super) fn in_place_of<'p>(node: &ImageNode, plan: &'p Plan) -> Option<&'p ImagePlan> {
    plan.images.iter().find(|image| {
        *node.device == *plan.devices[image.device].name
            && !(image.read_only && node.read_only)
            && image.extents.iter().any(|a| node.image.extents().iter().any(|b| a.meets(*b)))
    })
}

/// Whether a plan has an image like this, under its name.
pub(super) fn is_wanted(node: &ImageNode, plan: &Plan) -> bool {
    plan.images.iter().any(|image| image.name == node.image.name() && is_like(node, image, plan))
}

/// Whether an image is what a plan wants it to be, but for its owner and mode.
pub(super) fn is_like(node: &ImageNode, wanted: &ImagePlan, plan: &Plan) -> bool {
    node.read_only == wanted.read_only
        && *node.device == *plan.devices[wanted.device].name
        && node.image.extents() == wanted.extents
}

fn in_use(what: &str, image: &str, opens: u64) -> Refusal {
    let times = if opens == 1 { "once".to_owned() } else { format!("{opens} times") };
    Refusal::new(
        libc::EBUSY,
        format!("{what} while image {image} is open ({times}); end who uses it first (`fuser -v` tells who)"),
    )
}
