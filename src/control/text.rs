//! dm-ioband's table and status lines.
//!
//! ```text
//! NAME: START LENGTH ioband DEVICE DEVICE_ID IO_THROTTLE IO_LIMIT TYPE POLICY TOKEN_BASE :SHARE [ID:SHARE ...]
//! NAME: START LENGTH ioband DEVICE_ID [ID READS DELAYED SECTORS WRITES DELAYED SECTORS ...]
//! ```
//!
//! SHARE is the group's WEIGHT, and under the policy range-bw its MIN:MAX: the minimum and maximum bandwidth in KB/s (of
//! 1024 bytes, rounded up), 0 for none. Weights under range-bw and caps under other policies have no place in it.
//!
//! START is 0, LENGTH counts sectors of 512 bytes, the id of the default group is empty in a table and -1 in a
//! status. What a table prints after `NAME: ` is what creates the device. A path stays one word: blanks, control
//! characters and backslashes in it are written as in /proc/mounts, `\040` for a blank.

use crate::engine::{BandStatus, GroupStatus};
use crate::sched::{Policy, Settings};
use std::fmt::Write;
use std::num::NonZeroU64;

/// One table line, without the line end.
pub fn table_line(band: &BandStatus, id: u32, settings: &Settings) -> String {
    let mut line = format!(
        "{}: 0 {} ioband {} {id} {} {} {} {} {}",
        band.name,
        band.sectors,
        word(&band.device),
        settings.io_throttle,
        settings.io_limit,
        band.group_type.as_str(),
        band.policy.as_str(),
        settings.token_base
    );
    for group in &band.groups {
        let id = group.id.as_ref().map(ToString::to_string).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(line, " {id}:{}", share(group, band.policy));
    }
    line
}

/// What a group is to have, as the policy knows it.
fn share(group: &GroupStatus, policy: Policy) -> String {
    match policy {
        Policy::Weight | Policy::WeightIosize => group.weight.to_string(),
        Policy::RangeBw => {
            // Rounded up, because 0 would read as none.
            let kilobytes = |rate: Option<NonZeroU64>| rate.map_or(0, |rate| rate.get().div_ceil(1024));
            let max = group.limits.max_bandwidth.map(|cap| cap.rate);
            format!("{}:{}", kilobytes(group.limits.min_bandwidth), kilobytes(max))
        }
    }
}

/// The text as one word.
fn word(text: &str) -> String {
    let mut word = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_whitespace() || character.is_control() || character == '\\' {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(word, "\\{byte:03o}");
            }
        } else {
            word.push(character);
        }
    }
    word
}

/// One status line, without the line end.
pub fn status_line(band: &BandStatus, id: u32) -> String {
    let mut line = format!("{}: 0 {} ioband {id}", band.name, band.sectors);
    for group in &band.groups {
        let id = group.id.as_ref().map_or_else(|| "-1".to_owned(), ToString::to_string);
        let (r, w) = (group.counters.read, group.counters.write);
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            " {id} {} {} {} {} {} {}",
            r.requests, r.delayed, r.sectors, w.requests, w.delayed, w.sectors
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{GroupId, GroupType};
    use crate::sched::{Cap, Counters, Direction, Limits};
    use crate::units::{Sectors, Weight};

    fn group(id: Option<u32>, weight: u32, [r, dr, sr, w, dw, sw]: [u64; 6]) -> GroupStatus {
        GroupStatus {
            id: id.map(GroupId::Number),
            weight: Weight::new(weight).expect("a test's weight is valid"),
            limits: Limits::default(),
            counters: Counters {
                read: Direction { requests: r, delayed: dr, sectors: sr },
                write: Direction { requests: w, delayed: dw, sectors: sw },
            },
            queued: 0,
            gone: false,
        }
    }

    fn band() -> BandStatus {
        BandStatus {
            name: "ioband1".into(),
            sectors: Sectors(44371467),
            device: "8:29".into(),
            group_type: GroupType::User,
            policy: Policy::Weight,
            groups: vec![
                group(None, 100, [223, 172, 408, 211, 136, 600]),
                group(Some(1001), 80, [166, 107, 472, 139, 95, 352]),
                group(Some(1002), 20, [211, 146, 520, 210, 147, 504]),
            ],
        }
    }

    #[test]
    fn the_status_of_dm_iobands_document() {
        assert_eq!(
            status_line(&band(), 128),
            "ioband1: 0 44371467 ioband 128 -1 223 172 408 211 136 600 1001 166 107 472 139 95 352 \
             1002 211 146 520 210 147 504"
        );
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(word("/home/me/my stuff/disk"), "/home/me/my\\040stuff/disk");
        assert_eq!(word("a\\b\nc\u{a0}d"), "a\\134b\\012c\\302\\240d");
        assert_eq!(word("/dev/disk/by-id/ü"), "/dev/disk/by-id/ü");
    }

    #[test]
    fn a_table_has_every_argument() {
        let settings = Settings { io_throttle: 10, io_limit: 400, token_base: 2048 };
        assert_eq!(
            table_line(&band(), 128, &settings),
            "ioband1: 0 44371467 ioband 8:29 128 10 400 user weight 2048 :100 1001:80 1002:20"
        );
    }

    #[test]
    fn a_table_of_range_bw_has_bandwidths_in_kilobytes() {
        let rate = |rate| NonZeroU64::new(rate).expect("a test's rate is not zero");
        let mut band = band();
        band.policy = Policy::RangeBw;
        band.groups[1].limits.min_bandwidth = Some(rate(1000 << 10));
        band.groups[1].limits.max_bandwidth = Some(Cap::new(rate(2000 << 10)));
        // A single byte a second is not none.
        band.groups[2].limits.min_bandwidth = Some(rate(1));
        band.groups[2].limits.max_bandwidth = Some(Cap::new(rate(1025)));
        // Caps of requests have no place in it.
        band.groups[2].limits.max_iops = Some(Cap::new(rate(7)));
        assert_eq!(
            table_line(&band, 128, &Settings::default()),
            "ioband1: 0 44371467 ioband 8:29 128 0 0 user range-bw 2048 :0:0 1001:1000:2000 1002:1:2"
        );
    }
}
