//! The house rules that a compiler does not check: which module may know which, and what stays where.

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may use of the others. Arrows point one way: nobody uses who uses him.
const MAY_USE: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("clock", &["units"]),
    ("mountinfo", &[]),
    ("sandbox", &[]),
    ("ledger", &[]),
    ("sched", &["units"]),
    ("device", &["units", "clock", "mountinfo"]),
    ("classify", &["units", "clock"]),
    ("config", &["units", "sched", "classify"]),
    ("engine", &["units", "clock", "sched", "device", "classify", "config"]),
    ("control", &["units", "clock", "sandbox", "ledger", "sched", "classify", "config", "device", "engine"]),
    ("fuse", &["units", "clock", "mountinfo", "ledger", "classify", "config", "device", "engine", "control"]),
    ("keeper", &["units", "clock", "ledger", "fuse"]),
    (
        "daemon",
        &[
            "units", "clock", "sandbox", "sched", "classify", "config", "device", "engine", "control",
            "fuse", "keeper", "ledger",
        ],
    ),
    ("cli", &["keeper", "units", "sandbox", "config", "device", "fuse", "daemon"]),
];

/// A source file without its tests: its module, its name and its lines, comments left out.
struct Source {
    module: String,
    path: PathBuf,
    lines: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                sources.extend(source(&root, path));
            }
        }
    }
    assert!(sources.len() > 30, "only {} source files found", sources.len());
    sources
}

fn source(root: &Path, path: PathBuf) -> Option<Source> {
    let relative = path.strip_prefix(root).expect("below the root").to_owned();
    let first = relative.components().next()?.as_os_str().to_str()?;
    let module = first.trim_end_matches(".rs").to_owned();
    let name = path.file_name()?.to_str()?;
    let below_tests = relative.components().any(|part| part.as_os_str() == "tests");
    if module == "lib" || module == "main" || name == "tests.rs" || name.ends_with("_tests.rs") || below_tests
    {
        return None;
    }
    let text = fs::read_to_string(&path).expect("a source file");
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines =
        (1..).zip(product.lines().map(str::to_owned)).filter(|(_, line)| !line.trim().starts_with("//"));
    Some(Source { module, lines: lines.collect(), path: relative })
}

/// Every line of the product that `broken` finds fault with.
fn faults(mut broken: impl FnMut(&Source, &str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in &source.lines {
            if broken(&source, line) {
                faults.push(format!("{}:{number}: {}", source.path.display(), line.trim()));
            }
        }
    }
    faults
}

#[test]
fn arrows_point_one_way() {
    let faults = faults(|source, line| {
        let allowed =
            MAY_USE.iter().find(|(module, _)| *module == source.module).map(|(_, allowed)| *allowed);
        let allowed = allowed.unwrap_or_else(|| panic!("{} is not in the list of modules", source.module));
        line.split("crate::").skip(1).any(|rest| {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let is_module = MAY_USE.iter().any(|(module, _)| *module == name);
            is_module && name != source.module && !allowed.contains(&name.as_str())
        })
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_list_of_modules_has_no_circle() {
    for (index, (module, uses)) in MAY_USE.iter().enumerate() {
        for used in *uses {
            let place = MAY_USE.iter().position(|(name, _)| name == used);
            assert!(place.is_some_and(|place| place < index), "{module} uses {used}, which stands after it");
        }
    }
}

#[test]
fn the_scheduler_is_pure() {
    let forbidden =
        ["std::time", "std::thread", "std::fs", "std::io", "std::sync", "tracing", "fuser", "nix", "libc"];
    let faults =
        faults(|source, line| source.module == "sched" && forbidden.iter().any(|word| line.contains(word)));
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn time_is_read_in_one_place() {
    let faults = faults(|source, line| {
        source.module != "clock" && ["Instant::now", "SystemTime::now"].iter().any(|call| line.contains(call))
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn fuser_is_known_to_fuse_and_to_who_starts_it() {
    let faults = faults(|source, line| {
        line.contains("fuser::") && !["fuse", "daemon"].contains(&source.module.as_str())
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn unsafe_stays_in_its_corners() {
    let corner = |source: &Source| source.module == "device" || source.path == Path::new("fuse/sys.rs");
    let faults = faults(|source, line| {
        let block = line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl");
        block && !corner(source)
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_from_outside_is_unwrapped() {
    // What is unwrapped in a constant is unwrapped by the compiler.
    let faults = faults(|_, line| {
        (line.contains(".unwrap()") && !line.contains("const {"))
            || line.contains("todo!(")
            || line.contains("unimplemented!(")
    });
    assert!(faults.is_empty(), "{faults:#?}");
}
