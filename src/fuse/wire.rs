//! The kernel's side of the protocol, as far as the data path needs it: include/uapi/linux/fuse.h, in its names and layout.
//! All numbers are the machine's own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a request asks for. Those that are not here are fuser's.
pub(super) mod opcode {
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const INTERRUPT: u32 = 36;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
}

/// Stands for the error in a message to the kernel that asks to have sent again what was not answered.
pub(super) const RESEND: i32 = 7;
/// Stands for the error in a message to the kernel that wakes who waits for a file.
pub(super) const WAKE: i32 = 1;
/// In [`InHeader::unique`]: the request is sent again, to the successor of whoever had it.
pub(super) const AGAIN: u64 = 1 << 63;
/// In [`WriteIn::write_flags`]: written back by the kernel from its cache, on nobody's behalf.
pub(super) const WRITE_CACHE: u32 = 1;
/// In [`InitIn::flags`]: there is a second word of flags.
pub(super) const INIT_EXT: u32 = 1 << 30;
/// In [`InitIn::flags2`] (bit 39 of both words): unanswered requests can be sent again.
pub(super) const HAS_RESEND: u32 = 1 << 7;
/// In [`InitIn::flags2`] (bit 41 of both words): requests can come by io_uring.
pub(super) const OVER_IO_URING: u32 = 1 << 9;

/// What every request starts with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InHeader {
    pub(super) len: u32,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) nodeid: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
    pub(super) total_extlen: u16,
    pub(super) padding: u16,
}

/// What every answer starts with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OutHeader {
    pub(super) len: u32,
    /// Zero or a negated errno.
    pub(super) error: i32,
    pub(super) unique: u64,
}

impl OutHeader {
    /// The header of an answer with so many bytes behind it, or with an errno.
    pub(super) fn new(unique: u64, result: Result<u32, i32>) -> Self {
        let len = size_of::<Self>() as u32 + result.unwrap_or(0);
        Self { len, error: -result.err().unwrap_or(0), unique }
    }
}

/// The beginning of INIT's arguments; older kernels send less.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct InitIn {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u32,
    pub(super) flags2: u32,
}

/// Arguments of READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ReadIn {
    pub(super) fh: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) read_flags: u32,
    pub(super) lock_owner: u64,
    pub(super) flags: u32,
    pub(super) padding: u32,
}

/// Arguments of SETATTR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SetattrIn {
    pub(super) valid: u32,
    pub(super) padding: u32,
    pub(super) fh: u64,
    pub(super) size: u64,
    pub(super) lock_owner: u64,
    /// Seconds.
    pub(super) atime: i64,
    pub(super) mtime: i64,
    pub(super) ctime: i64,
    /// Nanoseconds of the times; mode, owner and group.
    pub(super) rest: [u32; 8],
}

/// Arguments of WRITE; the data follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct WriteIn {
    pub(super) fh: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) write_flags: u32,
    pub(super) lock_owner: u64,
    pub(super) flags: u32,
    pub(super) padding: u32,
}

/// What a WRITE is answered with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct WriteOut {
    pub(super) size: u32,
    pub(super) padding: u32,
}

/// Arguments of FSYNC.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct FsyncIn {
    pub(super) fh: u64,
    pub(super) fsync_flags: u32,
    pub(super) padding: u32,
}

/// Arguments of FALLOCATE.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct FallocateIn {
    pub(super) fh: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) mode: u32,
    pub(super) padding: u32,
}

/// Header and arguments of a WRITE, which is as much as those of any request of the data path.
pub(super) const HEADERS: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// What a request by io_uring comes with, beside its payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RingHeader {
    /// [`InHeader`] on the way in, [`OutHeader`] on the way out.
    pub(super) in_out: [u8; 128],
    /// The arguments, without data.
    pub(super) op_in: [u8; 128],
    pub(super) flags: u64,
    /// What the kernel finds the request by when it is answered.
    pub(super) commit_id: u64,
    /// Bytes of data, on the way in and out.
    pub(super) payload_size: u32,
    pub(super) padding: u32,
    pub(super) reserved: u64,
}

/// Commands of [`RingHeader`]'s protocol.
pub(super) mod command {
    pub(in crate::fuse) const REGISTER: u32 = 1;
    pub(in crate::fuse) const COMMIT_AND_FETCH: u32 = 2;
}

/// The beginning of some bytes as a structure; `None` if they are too few.
pub(super) fn parse<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(parsed, _)| parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!((size_of::<InHeader>(), size_of::<OutHeader>()), (40, 16));
        assert_eq!((size_of::<ReadIn>(), size_of::<WriteIn>(), size_of::<WriteOut>()), (40, 40, 8));
        assert_eq!((size_of::<FsyncIn>(), size_of::<FallocateIn>(), size_of::<SetattrIn>()), (16, 32, 88));
        assert_eq!((size_of::<RingHeader>(), HEADERS), (288, 80));
    }

    #[test]
    fn too_few_bytes_are_no_structure() {
        assert!(parse::<InHeader>(&[0; 39]).is_none());
        assert_eq!(parse::<OutHeader>(&[1; 17]).map(|header| header.len), Some(0x0101_0101));
    }
}
