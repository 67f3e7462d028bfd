//! Filters for system calls.

use super::Built;

/// Refuses what serving does not take, and ends the process at what only an attacker would try.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(super) fn filter() -> Built {
    use super::{Wall, calls, half};
    match calls::install() {
        Ok((allowed, fatal)) => {
            // Every filter that is there is asked, and the harshest answer counts; what is always allowed is not asked
            // about at all in newer kernels (5.11), which makes the common calls no slower.
            Ok(Ok(format!(
                "{allowed} system calls allowed, {fatal} end the process, all others fail with ENOSYS"
            )))
        }
        Err(error) if error.is_missing() => Ok(Err("the kernel has none (CONFIG_SECCOMP_FILTER)".to_owned())),
        Err(error) => half(Wall::Seccomp, error),
    }
}

/// The filters' language knows a few processors.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(super) fn filter() -> Built {
    Ok(Err(format!("no filter for {}", std::env::consts::ARCH)))
}
