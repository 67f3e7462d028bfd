//! No part of a device belongs to two images, unless both only read it.

use crate::config::fields::At;
use crate::config::plan::Extent;
use crate::config::report::{Pos, Problems, quoted};
use crate::units::Bytes;

/// One range of one image.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) image: &'a At<String>,
    pub(super) at: Pos,
    pub(super) extent: Extent,
    pub(super) writable: bool,
}

impl Piece<'_> {
    fn end(&self) -> Bytes {
        self.extent.end()
    }
}

/// Refuses every piece that shares a place of the device with another one, if either may be written to.
pub(super) fn check(device: &str, mut pieces: Vec<Piece<'_>>, problems: &mut Problems) {
    pieces.sort_by_key(|piece| (piece.extent.offset, piece.at));
    // Among the pieces that start before, the one that reaches furthest meets this one if any does; a reader
    // has only writers to fear, so they are remembered apart.
    let (mut furthest, mut writer): (Option<Piece<'_>>, Option<Piece<'_>>) = (None, None);
    for piece in pieces {
        let rival = if piece.writable { furthest } else { writer };
        if let Some(rival) = rival.filter(|rival| rival.end() > piece.extent.offset) {
            report(device, rival, piece, problems);
        }
        let reaches = |other: Option<Piece<'_>>| other.is_none_or(|other| piece.end() > other.end());
        if reaches(furthest) {
            furthest = Some(piece);
        }
        if piece.writable && reaches(writer) {
            writer = Some(piece);
        }
    }
}

fn report(device: &str, one: Piece<'_>, two: Piece<'_>, problems: &mut Problems) {
    // At the one that comes later in the file: that is where people were typing.
    let (first, second) = if one.at < two.at { (one, two) } else { (two, one) };
    let from = one.extent.offset.max(two.extent.offset);
    let to = one.end().min(two.end());
    let device = quoted(device);
    let span = |piece: Piece<'_>| format!("{} to {}", piece.extent.offset, piece.end());
    let message = if first.image.value == second.image.value {
        let name = quoted(&first.image.value);
        format!(
            "two extents of image {name} share {from} to {to} of device {device}; the other is on line {}",
            first.at.line
        )
    } else {
        format!(
            "image {} ({}) and image {} ({}, line {}) share {from} to {to} of device {device}",
            quoted(&second.image.value),
            span(second),
            quoted(&first.image.value),
            span(first),
            first.image.at.line
        )
    };
    problems.add(
        second.at,
        message,
        "move or shrink one of the two; only images that are all `read_only` may share a range",
    );
}
