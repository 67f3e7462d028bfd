//! The checked configuration: what the rest of the program builds from. A `Plan` that exists is valid.

use super::faults::FaultPlan;
use crate::classify::{GroupId, GroupType};
use crate::sched::{Limits, Policy};
use crate::units::{Bytes, Weight};
use std::path::PathBuf;

/// A whole mount, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where to mount, unless the command line says otherwise. Relative to the folder `mount` runs in.
    pub mountpoint: Option<PathBuf>,
    /// The control directory.
    pub control: ControlPlan,
    /// ioband devices, in the order of the file.
    pub devices: Vec<DevicePlan>,
    /// Images, in the order of the file.
    pub images: Vec<ImagePlan>,
}

/// The control directory: its name in the mount's root and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlan {
    /// Name of the folder, `.ioband` where nothing is said.
    pub dir: String,
    /// Owner of its files.
    pub owner: u32,
    /// Group of its files.
    pub group: u32,
    /// Permission bits of its files, 0600 where nothing is said.
    pub mode: u16,
}

/// One ioband device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Its name.
    pub name: String,
    /// The block device or regular file behind it; relative only if [`super::Defaults::folder`] is.
    pub path: PathBuf,
    /// MAJOR:MINOR of a block device.
    pub number: Option<(u64, u64)>,
    /// Set when the file does not exist yet, or is empty: it is created sparse with this size.
    pub create: Option<Bytes>,
    /// Only so much of its beginning is used, where that is stated.
    pub length: Option<Bytes>,
    /// Usable size.
    pub size: Bytes,
    /// Devices with the same id share one physical disk.
    pub id: u32,
    /// In-flight requests above which control starts; 0 = automatic.
    pub io_throttle: u32,
    /// Most requests in flight; 0 = automatic.
    pub io_limit: u32,
    /// How callers are told apart.
    pub group_type: GroupType,
    /// What a request costs.
    pub policy: Policy,
    /// Tokens handed out per epoch, 2048 where nothing (or 0) is said.
    pub token_base: u32,
    /// Weight of the default group.
    pub weight: Weight,
    /// What the default group must and may have beside it.
    pub limits: Limits,
    /// Further groups, in the order of the file; empty under [`GroupType::None`].
    pub groups: Vec<GroupPlan>,
    /// Make the device this slow.
    pub simulate: Option<SimulatePlan>,
    /// Let this go wrong with it.
    pub faults: Vec<FaultPlan>,
}

/// One ioband group besides the default group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    /// Whom it matches.
    pub id: GroupId,
    /// Its weight.
    pub weight: Weight,
    /// What it must and may have beside it.
    pub limits: Limits,
}

/// A service-time model: each of `parallel` servers takes 1/iops plus bytes/bandwidth per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatePlan {
    /// Requests a second of one server; `None` = no cost per request.
    pub iops: Option<u64>,
    /// Bytes a second of one server; `None` = no cost per byte.
    pub bandwidth: Option<Bytes>,
    /// Number of servers, at least 1.
    pub parallel: u32,
}

/// One disk image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePlan {
    /// File name in the mount's root.
    pub name: String,
    /// Index into [`Plan::devices`].
    pub device: usize,
    /// Parts of the device that make up the image, in order; never empty, never of size 0.
    pub extents: Vec<Extent>,
    /// Owner.
    pub owner: u32,
    /// Group.
    pub group: u32,
    /// Permission bits.
    pub mode: u16,
    /// Writes are refused.
    pub read_only: bool,
}

impl ImagePlan {
    /// Size of the image: the sum of its extents, which has been checked to be no larger than a file can be.
    pub fn size(&self) -> Bytes {
        Bytes(self.extents.iter().map(|e| e.size.0).sum())
    }
}

/// A range of a device; both ends are multiples of 512 bytes and inside the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts on the device.
    pub offset: Bytes,
    /// How long it is.
    pub size: Bytes,
}

impl Extent {
    /// Where it ends; inside of a device, so far below overflow.
    pub fn end(self) -> Bytes {
        Bytes(self.offset.0 + self.size.0)
    }

    /// Whether the two have a place in common.
    pub fn meets(self, other: Extent) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}
