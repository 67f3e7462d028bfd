//! Of all that root may do, what serving takes.

use super::{Built, Wall, half};
use caps::{CapSet, Capability, CapsHashSet};

/// To open devices and the configuration, whose ever they are; and to write the configuration anew as it was (`ioband save`),
/// with owner and mode.
const KEPT: [Capability; 3] = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_CHOWN, Capability::CAP_FOWNER];

/// Drops all others from every set.
pub(super) fn drop() -> Built {
    match dropped() {
        Ok(kept) if kept.is_empty() => Ok(Ok("none".to_owned())),
        Ok(kept) => {
            let mut names: Vec<_> = kept.iter().map(|cap| name(*cap)).collect();
            names.sort();
            Ok(Ok(format!("{} and no others", names.join(", "))))
        }
        Err(error) => half(Wall::Capabilities, error),
    }
}

/// What is left then.
fn dropped() -> Result<CapsHashSet, Box<dyn std::error::Error>> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|cap| permitted.contains(cap)).collect();
    // The bounding set says what may ever be had again. Shrinking it takes a capability itself, so it comes first; who does
    // not have that has nothing that a later program could bring back either: see `privileges`.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for cap in caps::runtime::thread_all_supported().difference(&kept) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    // Effective ones must be permitted, so these are given up first.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        if caps::read(None, set)? != kept {
            return Err(format!("{set:?} capabilities are not what they were set to").into());
        }
    }
    Ok(kept)
}

/// In the words of capabilities(7), which are long: `dac_override`.
fn name(cap: Capability) -> String {
    cap.to_string().trim_start_matches("CAP_").to_lowercase()
}
