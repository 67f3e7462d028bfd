//! Questions to the kernel about a path or an open file.

use super::medium::Alignment;
use super::target::Kind;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

pub(super) fn kind(seen: &Metadata) -> Kind {
    let kind = seen.file_type();
    match () {
        () if kind.is_block_device() => Kind::Block,
        () if kind.is_file() => Kind::File,
        () if kind.is_dir() => Kind::Other("a directory"),
        () if kind.is_char_device() => Kind::Other("a character device"),
        () if kind.is_fifo() => Kind::Other("a named pipe"),
        () if kind.is_socket() => Kind::Other("a socket"),
        () => Kind::Other("no file"),
    }
}

/// Major and minor number.
pub(super) fn split(rdev: u64) -> (u64, u64) {
    (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

pub(super) fn status_flags(file: &File) -> io::Result<OFlag> {
    Ok(OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?))
}

pub(super) fn set_flags(file: &File, flags: OFlag) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Which alignment direct I/O needs, if statx knows.
pub(super) fn direct_alignment(file: &File) -> Option<Alignment> {
    let mut seen = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH means the open descriptor; `seen` is a statx to be filled.
    let result = unsafe {
        let flags = libc::AT_EMPTY_PATH;
        libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, seen.as_mut_ptr())
    };
    // SAFETY: statx is plain numbers, for which zeroes are valid; the kernel filled in the rest.
    let seen = unsafe { seen.assume_init() };
    if result != 0 || seen.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    let align = seen.stx_dio_offset_align;
    let page = super::buffer::PAGE as u32;
    let usable = align.is_power_of_two() && align <= 1 << 16 && seen.stx_dio_mem_align <= page;
    Some(Alignment { block: if usable { align } else { 0 }, memory: seen.stx_dio_mem_align.max(1) })
}

mod ioctl {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, libc::size_t);
    nix::ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int);
}

pub(super) fn device_size(file: &File) -> io::Result<u64> {
    let mut size: libc::size_t = 0;
    // SAFETY: BLKGETSIZE64 fills in one 64-bit number (its encoded size_t) at the pointer, which is valid.
    unsafe { ioctl::blkgetsize64(file.as_raw_fd(), &raw mut size)? };
    Ok(size as u64)
}

pub(super) fn logical_block_size(file: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET fills in one int at the pointer, which is valid.
    unsafe { ioctl::blksszget(file.as_raw_fd(), &raw mut size)? };
    u32::try_from(size)
        .ok()
        .filter(|size| size.is_power_of_two())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Whether the filesystem of a file answers by a process or over a network.
pub(super) fn is_remote(file: &File) -> bool {
    use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, fstatfs};
    // What nix has no names for: 9p, CIFS, SMB 2 and later, Ceph.
    const OTHERS: [i64; 4] = [0x0102_1997, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];
    let known = [FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC];
    fstatfs(file).is_ok_and(|seen| {
        let found = seen.filesystem_type();
        known.contains(&found) || OTHERS.contains(&(found.0 & 0xffff_ffff))
    })
}
