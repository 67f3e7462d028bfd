//! No privileges by way of programs, and no look into the process for others of its user.

use super::{Built, Wall, half};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Whatever is run from here on has no more privileges than we, whatever bits its file has; and there are no core dumps: they
/// would put the data of all users into a file.
pub(super) fn renounce() -> Built {
    let renounced = prctl::set_no_new_privs()
        // A process that leaves no dump is closed to debuggers of the same user, too.
        .and_then(|()| prctl::set_dumpable(false))
        .and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
        .and_then(|()| prctl::get_no_new_privs());
    match renounced {
        Ok(true) => Ok(Ok("no new ones; no core dumps, no debuggers but root's".to_owned())),
        Ok(false) => half(Wall::Privileges, "the kernel does not keep what it took"),
        Err(error) => half(Wall::Privileges, error),
    }
}
