//! What `ioband ls` prints: how the mount is served, its images and its devices, for people.

use crate::engine::{BandId, BandStatus};
use crate::units::{Bytes, SECTOR_SIZE};

/// How a mount is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// How requests come: `uring` or `dev`.
    pub transport: &'static str,
    /// Why they do not come faster, and what would change that.
    pub why: Option<String>,
    /// Threads that serve.
    pub threads: usize,
    /// How devices are talked to: `io_uring` or `threads`.
    pub backend: &'static str,
    /// Requests for bytes of images so far that came by io_uring.
    pub by_uring: u64,
    /// Those that came by /dev/fuse.
    pub by_dev: u64,
}

/// An image, as `ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLine {
    /// Its name.
    pub name: String,
    /// Its ioband device.
    pub device: BandId,
    /// Its size.
    pub size: Bytes,
    /// Writes are refused.
    pub read_only: bool,
    /// Its permission bits.
    pub mode: u16,
    /// Owner and group.
    pub owner: (u32, u32),
}

pub(super) fn service_lines(service: &Service) -> String {
    let Service { transport, why, threads, backend, by_uring, by_dev } = service;
    let why = why.as_ref().map(|why| format!("\n           not uring: {why}")).unwrap_or_default();
    let plural = if *threads == 1 { "" } else { "s" };
    format!(
        "transport  {transport}, {threads} thread{plural}, devices by {backend}{why}\n\
         served     {by_uring} requests by io_uring, {by_dev} by /dev/fuse\n"
    )
}

/// `name` says what an ioband device is called.
pub(super) fn image_lines<'a>(images: &[ImageLine], name: impl Fn(BandId) -> &'a str) -> String {
    let rows = images.iter().map(|image| {
        let access = if image.read_only { "read-only" } else { "read-write" };
        let ImageLine { mode, owner: (uid, gid), .. } = image;
        vec![
            image.name.clone(),
            name(image.device).to_owned(),
            image.size.to_string(),
            access.to_owned(),
            format!("{mode:04o} {uid}:{gid}"),
        ]
    });
    columns(&["IMAGE", "DEVICE", "SIZE", "ACCESS", "OWNER"], rows)
}

pub(super) fn device_lines<'a>(bands: impl Iterator<Item = (u32, &'a BandStatus)>) -> String {
    let rows = bands.map(|(id, band)| {
        vec![
            band.name.clone(),
            id.to_string(),
            Bytes(band.sectors.0.saturating_mul(SECTOR_SIZE)).to_string(),
            band.group_type.as_str().to_owned(),
            band.policy.as_str().to_owned(),
            // The default group is always there, and counts as none.
            (band.groups.len() - 1).to_string(),
            band.device.clone(),
        ]
    });
    columns(&["DEVICE", "DISK", "SIZE", "TYPE", "POLICY", "GROUPS", "ON"], rows)
}

/// A heading and rows, each column as wide as it needs; nothing if there are no rows.
fn columns(heading: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines = vec![heading.iter().map(ToString::to_string).collect::<Vec<_>>()];
    lines.extend(rows);
    if lines.len() == 1 {
        return String::new();
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..heading.len()).map(width).collect();
    let mut text = String::from("\n");
    for line in &lines {
        let padded: Vec<_> = line.iter().zip(&widths).map(|(word, width)| format!("{word:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_why_it_is_not_faster() {
        let service = Service {
            transport: "dev",
            why: Some("it is switched off".into()),
            threads: 2,
            backend: "io_uring",
            by_uring: 0,
            by_dev: 7,
        };
        assert_eq!(
            service_lines(&service),
            "transport  dev, 2 threads, devices by io_uring\n           not uring: it is switched off\n\
             served     0 requests by io_uring, 7 by /dev/fuse\n"
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let image = |name: &str, read_only| ImageLine {
            name: name.into(),
            device: BandId::default(),
            size: Bytes(2 << 30),
            read_only,
            mode: 0o660,
            owner: (0, 107),
        };
        assert_eq!(
            image_lines(&[image("vm1.img", false), image("v.img", true)], |_| "d"),
            "\nIMAGE    DEVICE  SIZE  ACCESS      OWNER\n\
             vm1.img  d       2GiB  read-write  0660 0:107\n\
             v.img    d       2GiB  read-only   0660 0:107\n"
        );
        assert_eq!(image_lines(&[], |_| "d"), "");
    }
}
