//! What is forbidden with files and the network, by Landlock.
//!
//! Devices are opened by path when the configuration changes, wherever they are, so reading and writing files cannot be
//! restricted to places. What serving never does can be forbidden everywhere.

use super::{Built, Wall, half};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetStatus, Scope, make_bitflags,
};

/// No programs, no special files, no folders, no links. Files are made, renamed within their folder and removed, by
/// `ioband save` and for devices that are regular files.
const FORBIDDEN: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    Execute | MakeChar | MakeBlock | MakeSock | MakeFifo | MakeSym | MakeDir | RemoveDir | Refer
});

/// Forbids it, as far as the kernel knows how.
pub(super) fn restrict() -> Built {
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(FORBIDDEN)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V4)))
        // Signals, and sockets with names that no file has: only among ourselves.
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.restrict_self());
    let status = match restricted {
        Ok(status) => status,
        Err(error) => return half(Wall::Landlock, error),
    };
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Ok(Err("it is not among the kernel's `lsm=`".to_owned()))
        }
        (RulesetStatus::NotEnforced, _) => Ok(Err("the kernel has none (Linux 5.13)".to_owned())),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(Ok(described(effective_abi))),
        _ => half(Wall::Landlock, "it is in force and not available"),
    }
}

/// What is forbidden where the kernel has this version of it.
fn described(abi: ABI) -> String {
    let mut forbidden = vec!["running programs", "new special files, links and folders", "removing folders"];
    if abi >= ABI::V4 {
        forbidden.push("TCP");
    }
    if abi >= ABI::V6 {
        forbidden.push("abstract sockets and signals to others");
    }
    format!("version {}, forbids {}", abi as i32, forbidden.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_forbid_less() {
        assert!(!described(ABI::V3).contains("TCP"));
        assert!(described(ABI::V4).ends_with("removing folders, TCP"));
        assert!(described(ABI::V7).starts_with("version 7, forbids running programs,"));
        assert!(described(ABI::V7).ends_with("signals to others"));
    }
}
