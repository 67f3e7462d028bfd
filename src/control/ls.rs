//! What `ioband ls` prints: how the mount is served, its images, devices and groups, for people.
//!
//! What was asked and what was got stand side by side. Both are parts of the disk, not of the device: ASKED is the weight
//! among all weights of the disk, GOT what the group had of all that the disk did since the start or the last reset.

use super::snapshot::{Seen, Snapshot};
use crate::engine::{BandStatus, GroupStatus};
use crate::sandbox;
use crate::sched::Limits;
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
    /// The processes that keep the mount and serve it.
    pub processes: Processes,
    /// What the process that serves has given up.
    pub sandbox: sandbox::Report,
}

/// The processes of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// The one that keeps it, while it lives.
    pub keeper: Option<u32>,
    /// The one that serves it.
    pub worker: u32,
    /// How many have served it before.
    pub before: u32,
    /// Another one could go on if that one died.
    pub survives: bool,
}

/// An image, as `ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLine {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: Bytes,
    /// Writes are refused.
    pub read_only: bool,
    /// Its permission bits.
    pub mode: u16,
    /// Owner and group.
    pub owner: (u32, u32),
    /// How many files of it are open.
    pub opens: u64,
}

/// The file `ls`.
pub(super) fn list(snapshot: &Snapshot<'_>) -> String {
    let devices = snapshot.devices();
    snapshot.service.map(service_lines).unwrap_or_default()
        + &image_lines(snapshot.images().into_iter())
        + &device_lines(devices.iter().map(|seen| (seen.disk.id, seen.band)))
        + &group_lines(&devices)
}

pub(super) fn service_lines(service: &Service) -> String {
    let Service { transport, why, threads, backend, by_uring, by_dev, processes, .. } = service;
    let why = why.as_ref().map(|why| format!("\n           not uring: {why}")).unwrap_or_default();
    let plural = if *threads == 1 { "" } else { "s" };
    format!(
        "transport  {transport}, {threads} thread{plural}, devices by {backend}{why}\n\
         served     {by_uring} requests by io_uring, {by_dev} by /dev/fuse\n\
         worker     {}\n",
        processes_line(processes)
    )
}

fn processes_line(processes: &Processes) -> String {
    let Processes { keeper, worker, before, survives } = processes;
    let kept = match keeper {
        Some(keeper) => format!("kept by {keeper}"),
        None => "whose keeper has ended: if it dies the mount ends".to_owned(),
    };
    let before = match before {
        0 => String::new(),
        1 => "; one has served before".to_owned(),
        more => format!("; {more} have served before"),
    };
    let dies = match *survives || keeper.is_none() {
        true => "",
        false => {
            "\n           does not survive: what is in its rings ends with it (--transport dev survives)"
        }
    };
    format!("{worker}, {kept}{before}{dies}")
}

/// Each image comes with the name of its ioband device.
pub(super) fn image_lines<'a>(images: impl Iterator<Item = (&'a ImageLine, &'a str)>) -> String {
    let rows = images.map(|(image, device)| {
        let access = if image.read_only { "read-only" } else { "read-write" };
        let ImageLine { mode, owner: (uid, gid), .. } = image;
        vec![
            image.name.clone(),
            device.to_owned(),
            image.size.to_string(),
            access.to_owned(),
            format!("{mode:04o} {uid}:{gid}"),
            image.opens.to_string(),
        ]
    });
    columns(&["IMAGE", "DEVICE", "SIZE", "ACCESS", "OWNER", "OPEN"], rows)
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

fn group_lines(devices: &[Seen<'_>]) -> String {
    let groups = || devices.iter().flat_map(|seen| seen.band.groups.iter().map(move |group| (seen, group)));
    let limited = groups().any(|(_, group)| !group.limits.is_empty());
    let rows = groups().map(|(seen, group)| {
        let mut row = group_row(seen, group);
        row.extend(limited.then(|| limits(&group.limits)));
        row
    });
    let heading = ["DEVICE", "GROUP", "WEIGHT", "ASKED", "GOT", "READS", "WRITES", "HELD", "LIMITS"];
    columns(&heading[..heading.len() - usize::from(!limited)], rows)
}

fn group_row(seen: &Seen<'_>, group: &GroupStatus) -> Vec<String> {
    let id = group.id.as_ref().map_or_else(|| "default".to_owned(), ToString::to_string);
    let percent = |per_mille: Option<u64>| {
        per_mille.map_or_else(|| "-".to_owned(), |part| format!("{}.{}%", part / 10, part % 10))
    };
    vec![
        seen.plan.name.clone(),
        if group.gone { format!("{id} gone") } else { id },
        group.weight.to_string(),
        percent(seen.asked(group).per_mille()),
        percent(seen.got(group).per_mille()),
        group.counters.read.requests.to_string(),
        group.counters.write.requests.to_string(),
        group.queued.to_string(),
    ]
}

fn limits(limits: &Limits) -> String {
    let rate = |word: &str, rate: u64| format!("{word} {}/s", Bytes(rate));
    let all = [
        limits.min_bandwidth.map(|min| rate("min", min.get())),
        limits.max_bandwidth.map(|max| rate("max", max.rate.get())),
        limits.max_iops.map(|max| format!("max {} iops", max.rate)),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
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
    use super::super::tests::{EXAMPLE, Stage};
    use super::*;

    #[test]
    fn it_says_why_it_is_not_faster() {
        let service = Stage::new(EXAMPLE).service;
        assert_eq!(
            service_lines(&service),
            "transport  dev, 2 threads, devices by io_uring\n           not uring: it is switched off\n\
             served     0 requests by io_uring, 7 by /dev/fuse\nworker     12, kept by 10; one has served before\n"
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let image = |name: &str, read_only| ImageLine {
            name: name.into(),
            size: Bytes(2 << 30),
            read_only,
            mode: 0o660,
            owner: (0, 107),
            opens: 2,
        };
        let images = [image("vm1.img", false), image("v.img", true)];
        assert_eq!(
            image_lines(images.iter().map(|image| (image, "d"))),
            "\nIMAGE    DEVICE  SIZE  ACCESS      OWNER       OPEN\n\
             vm1.img  d       2GiB  read-write  0660 0:107  2\n\
             v.img    d       2GiB  read-only   0660 0:107  2\n"
        );
        assert_eq!(image_lines([].into_iter()), "");
    }

    /// The part of the list that tells of groups.
    fn groups(stage: &Stage) -> String {
        let list = list(&stage.look());
        let at = list.rfind("\n\n").unwrap();
        list[at + 2..].to_owned()
    }

    #[test]
    fn what_was_asked_stands_beside_what_was_got() {
        let mut stage = Stage::new(EXAMPLE);
        stage.did("ioband1", 1, [20, 3, 160], [5, 1, 8]);
        stage.did("ioband2", 0, [49, 0, 75], [1, 0, 0]);
        stage.group("ioband1", 1).queued = 14;
        stage.group("ioband1", 2).gone = true;
        assert_eq!(
            groups(&stage),
            "DEVICE   GROUP      WEIGHT  ASKED   GOT    READS  WRITES  HELD\n\
             ioband1  default    40      40.0%   0.0%   0      0       0\n\
             ioband1  1000       30      30.0%   33.3%  20     5       14\n\
             ioband1  2000 gone  20      20.0%   0.0%   0      0       0\n\
             other    default    100     100.0%  -      0      0       0\n\
             ioband2  default    10      10.0%   66.7%  49     1       0\n"
        );
    }

    #[test]
    fn limits_have_a_column_where_there_are_any() {
        let stage = Stage::new(
            "devices: {d: {path: /d, size: 1MiB, type: user, policy: range-bw, groups: {\
             5: {min_bandwidth: 1MiB, max_bandwidth: 1536KiB, max_iops: 2000}}}}",
        );
        assert_eq!(
            groups(&stage),
            "DEVICE  GROUP    WEIGHT  ASKED  GOT  READS  WRITES  HELD  LIMITS\n\
             d       default  100     50.0%  -    0      0       0\n\
             d       5        100     50.0%  -    0      0       0     \
             min 1MiB/s, max 1536KiB/s, max 2000 iops\n"
        );
    }

    #[test]
    fn a_list_is_complete_and_of_an_empty_mount_nothing_but_the_service() {
        let list = list(&Stage::new(EXAMPLE).look());
        let headings: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let of = |word: &str| headings.iter().position(|heading| *heading == word).unwrap();
        assert!(of("transport") < of("IMAGE") && of("IMAGE") < of("DEVICE"), "{list}");
        assert!(list.contains("\nvm1.img  ioband2  1MiB"), "{list}");
        assert!(list.contains("\nother    2     1MiB  none  weight-iosize  0       /c\n"), "{list}");
        let empty = Stage::new("");
        assert_eq!(super::list(&empty.look()), service_lines(&empty.service));
    }
}
