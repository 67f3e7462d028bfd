//! What `--json` prints: table, status and list for programs.
//!
//! Keys are those of the configuration and of a status. The default group has the id -1. `sectors` are of 512 bytes, sizes
//! and bandwidths are in bytes (a second), shares in percent; what is not limited has no key, and a share of nothing is
//! null. Keys stay what they are; new ones may come.

mod list;
mod status;
mod table;

use super::snapshot::Snapshot;
use crate::classify::GroupId;
use list::List;
use serde::{Serialize, Serializer};
use status::StatusDevice;
use table::TableDevice;

/// A group's id: a number or a name.
struct Id<'a>(Option<&'a GroupId>);

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_i8(-1),
            Some(GroupId::Number(number)) => serializer.serialize_u32(*number),
            Some(GroupId::Name(name)) => serializer.serialize_str(name),
        }
    }
}

/// The file `table.json`: a list of ioband devices with their settings.
pub(super) fn table_json(snapshot: &Snapshot<'_>) -> String {
    text(&snapshot.plan.devices.iter().map(TableDevice::of).collect::<Vec<_>>())
}

/// The file `status.json`: a list of ioband devices with what their groups did.
pub(super) fn status_json(snapshot: &Snapshot<'_>) -> String {
    text(&snapshot.devices().iter().map(StatusDevice::of).collect::<Vec<_>>())
}

/// The file `ls.json`: how the mount is served, its images, devices and disks.
pub(super) fn list_json(snapshot: &Snapshot<'_>) -> String {
    text(&List::of(snapshot))
}

fn text(value: &impl Serialize) -> String {
    // Only maps with other keys than text fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::tests::{EXAMPLE, Stage};
    use super::*;
    use serde_json::{Value, json};

    fn value(text: &str) -> Value {
        assert!(text.ends_with("]\n") || text.ends_with("}\n"), "{text}");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_table_has_every_setting() {
        let stage = Stage::new(
            "
devices:
  d:
    path: /a
    size: 4MiB
    id: 7
    io_throttle: 2
    io_limit: 3
    type: cgroup
    policy: range-bw
    token_base: 9
    weight: 5
    min_bandwidth: 1MiB
    groups: {/x: {weight: 6, max_bandwidth: 2MiB, bandwidth_burst: 1KiB, max_iops: 100}}
    simulate: {iops: 50}
",
        );
        let limits = json!({"id": "/x", "weight": 6, "max_bandwidth": 2 << 20, "bandwidth_burst": 1024,
            "max_iops": 100, "iops_burst": 1});
        let wanted = json!([{
            "name": "d", "start": 0, "sectors": 8192, "path": "/a", "id": 7, "io_throttle": 2, "io_limit": 3,
            "type": "cgroup", "policy": "range-bw", "token_base": 9,
            "groups": [{"id": -1, "weight": 5, "min_bandwidth": 1 << 20}, limits],
            "simulate": {"iops": 50, "parallel": 1},
        }]);
        assert_eq!(value(&table_json(&stage.look())), wanted);
    }

    #[test]
    fn a_status_has_what_was_asked_and_what_was_got() {
        let mut stage = Stage::new(EXAMPLE);
        stage.did("ioband1", 1, [20, 3, 160], [5, 1, 8]);
        stage.did("ioband2", 0, [75, 0, 75], [0, 0, 0]);
        stage.group("ioband1", 1).queued = 4;
        stage.group("ioband1", 1).gone = true;
        let text = status_json(&stage.look());
        let status = value(&text);
        let names: Vec<_> = status.as_array().unwrap().iter().map(|device| &device["name"]).collect();
        assert_eq!(names, ["ioband1", "other", "ioband2"], "as in the plan");
        let nothing = json!({"requests": 0, "delayed": 0, "sectors": 0});
        let group = |id: i64,
                     gone: bool,
                     weight: u32,
                     asked: f64,
                     got: f64,
                     queued: u32,
                     read: &Value,
                     write: &Value| {
            json!({"id": id, "gone": gone, "weight": weight, "asked": asked, "got": got, "queued": queued,
                "read": read, "write": write})
        };
        let read = json!({"requests": 20, "delayed": 3, "sectors": 160});
        let write = json!({"requests": 5, "delayed": 1, "sectors": 8});
        let groups = [
            group(-1, false, 40, 40.0, 0.0, 0, &nothing, &nothing),
            group(1000, true, 30, 30.0, 25.0, 4, &read, &write),
            group(2000, false, 20, 20.0, 0.0, 0, &nothing, &nothing),
        ];
        assert_eq!(
            status[0],
            json!({"name": "ioband1", "start": 0, "sectors": 8192, "id": 1, "groups": groups})
        );
        assert_eq!(status[1]["groups"][0]["got"], Value::Null, "of nothing there is no share");
        assert!(text.contains("\"requests\": 20,\n"), "keys stand in their order: {text}");
    }

    #[test]
    fn a_list_has_service_images_devices_and_disks() {
        let stage = Stage::new(EXAMPLE);
        let list = value(&list_json(&stage.look()));
        assert_eq!(list["version"], env!("CARGO_PKG_VERSION"));
        let service = json!({"transport": "dev", "why": "it is switched off", "threads": 2, "backend": "io_uring",
            "by_uring": 0, "by_dev": 7, "keeper": 10, "worker": 12, "before": 1, "survives": true, "sandbox": [
                {"name": "landlock", "state": "not available", "detail": "it is off"},
                {"name": "seccomp", "state": "in force", "detail": "strict"},
                {"name": "privileges", "state": "off", "detail": null}]});
        assert_eq!(list["service"], service);
        let image = json!({"name": "vm2.img", "device": "ioband1", "size": 2 << 20, "read_only": true,
            "mode": "0640", "owner": 7, "group": 8, "open": 0});
        assert_eq!(list["images"][1], image);
        let device = json!({"name": "ioband1", "id": 1, "size": 4 << 20, "type": "user", "policy": "weight",
            "groups": 2, "path": "/a"});
        assert_eq!(list["devices"][0], device);
        let disk = json!({"id": 2, "io_throttle": 0, "io_limit": 0, "token_base": 2048, "in_flight": 3, "queued": 5,
            "depth": 32, "epochs": 9});
        assert_eq!(list["disks"][1], disk);
        let waiting = Snapshot { service: None, ..stage.look() };
        assert_eq!(value(&list_json(&waiting))["service"], Value::Null);
    }

    #[test]
    fn an_empty_mount_is_an_empty_list() {
        let stage = Stage::new("");
        assert_eq!(table_json(&stage.look()), "[]\n");
        assert_eq!(status_json(&stage.look()), "[]\n");
    }
}
