//! Images: the device each is on, and that its ranges are inside of it.

use super::devices::Backing;
use super::overlap::{self, Piece};
use crate::config::fields::{At, Bad};
use crate::config::load::Defaults;
use crate::config::plan::{Extent, ImagePlan};
use crate::config::report::{Problems, listed, nearest, quoted};
use crate::config::shape::{Image, Mount, Range};
use crate::units::Bytes;
use std::collections::HashMap;

/// The checked images.
pub(super) fn check(
    mount: &Mount,
    backing: &[Option<Backing>],
    defaults: &Defaults,
    problems: &mut Problems,
) -> Vec<ImagePlan> {
    let by_name: HashMap<&str, usize> =
        mount.devices.iter().enumerate().map(|(i, d)| (d.name.value.as_str(), i)).collect();
    let mut pieces: Vec<Vec<Piece<'_>>> = mount.devices.iter().map(|_| Vec::new()).collect();
    let mut plans = Vec::with_capacity(mount.images.len());
    for image in &mount.images {
        let Ok(device) = device_of(image, &by_name, mount, problems) else { continue };
        let (Some(backing), Ok(ranges)) = (backing[device], &image.ranges) else { continue };
        let name = &mount.devices[device].name.value;
        let inside = ranges.iter().map(|range| extent(range, image, name, backing.size, problems));
        let extents: Vec<Result<Extent, Bad>> = inside.collect();
        let good = |(range, extent): (&Range, &Result<Extent, Bad>)| {
            let extent = extent.ok()?;
            Some(Piece { image: &image.name, at: range.at, extent, writable: !image.read_only })
        };
        pieces[device].extend(ranges.iter().zip(&extents).filter_map(good));
        let Ok(extents) = extents.into_iter().collect::<Result<Vec<Extent>, Bad>>() else { continue };
        let Ok(()) = whole(image, &extents, problems) else { continue };
        plans.push(ImagePlan {
            name: image.name.value.clone(),
            device,
            extents,
            owner: image.access.owner.unwrap_or(defaults.owner),
            group: image.access.group.unwrap_or(defaults.group),
            mode: image.access.mode.unwrap_or(0o600),
            read_only: image.read_only,
        });
    }
    for (device, pieces) in mount.devices.iter().zip(pieces) {
        overlap::check(&device.name.value, pieces, problems);
    }
    plans
}

fn device_of(
    image: &Image,
    by_name: &HashMap<&str, usize>,
    mount: &Mount,
    problems: &mut Problems,
) -> Result<usize, Bad> {
    let At { value, at } = image.device.as_ref().map_err(|bad| *bad)?;
    if let Some(index) = by_name.get(value.as_str()) {
        return Ok(*index);
    }
    let names = || mount.devices.iter().map(|d| d.name.value.as_str());
    let near = if problems.are_many() { None } else { nearest(value, names()) };
    let hint = match (near, names().next()) {
        (_, None) => "there are no devices yet: describe one under `devices`".to_owned(),
        (Some(near), _) => format!("did you mean `{near}`? The devices: {}", listed(names())),
        (None, Some(_)) => format!("the devices: {}", listed(names())),
    };
    let message =
        format!("image {} is on device {}, which is not defined", quoted(&image.name.value), quoted(value));
    problems.add(*at, message, hint);
    Err(Bad)
}

fn extent(
    range: &Range,
    image: &Image,
    device: &str,
    room: Bytes,
    problems: &mut Problems,
) -> Result<Extent, Bad> {
    let (name, device) = (quoted(&image.name.value), quoted(device));
    let Range { at, offset, size } = *range;
    if offset >= room {
        let message = format!("image {name} starts at {offset}, but device {device} ends at {room}");
        problems.add(at, message, format!("choose an `offset` below {room}"));
        return Err(Bad);
    }
    let left = Bytes(room.0 - offset.0);
    let size = size.unwrap_or(left);
    if size > left {
        // Both are at most half of what 64 bits hold, so the sum does not overflow.
        let end = Bytes(offset.0 + size.0);
        let message = format!("image {name} reaches to {end}, but device {device} ends at {room}");
        problems.add(
            at,
            message,
            format!("from {offset} on there is room for {left}: lower `size` or `offset`"),
        );
        return Err(Bad);
    }
    Ok(Extent { offset, size })
}

/// The size of a file is an `off_t`. A device is too, but an image may list the same part of one several times, if it
/// only reads it.
fn whole(image: &Image, extents: &[Extent], problems: &mut Problems) -> Result<(), Bad> {
    let size = extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.size.0));
    if size.is_some_and(|size| i64::try_from(size).is_ok()) {
        return Ok(());
    }
    let message =
        format!("the extents of image {} are together larger than a file can be", quoted(&image.name.value));
    problems.add(image.name.at, message, "the largest size is 8388607TiB: remove extents, or shrink them");
    Err(Bad)
}
