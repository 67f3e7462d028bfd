//! The documents for users: what their examples show is run on a mount, and has to print what stands there.
//!
//! A document's examples are its ` ```console ` blocks. In each, what begins with `$ ` is a command, a line that begins with
//! `> ` goes on with it, and all others are what it prints. `…` stands for anything within a line, and alone in a line for any
//! lines. A block is one shell, and all blocks of a document are for the same mount, one after the other.

use crate::daemon::{MOUNT, Vmdisk};
use crate::support::{Need, folder, trial};
use libtest_mimic::Trial;
use std::path::Path;
use std::process::Command;

/// Stands between what two commands print.
const MARK: &str = "-- the next command --";
/// Far more seconds than any block needs.
const PATIENCE: &str = "120";

pub(crate) fn trials() -> Vec<Trial> {
    let needs = [MOUNT, &[Need::Tool("bash"), Need::Tool("sed"), Need::Tool("timeout")]].concat();
    vec![
        trial("README.md shows what happens", &needs, || {
            let config = read("mountconfigs/vmdisk.yaml");
            shows_what_happens("README.md", &config);
        }),
        trial("CONTROL.md shows what happens", &needs, || {
            let document = "contrib/docs/CONTROL.md";
            let text = read(document);
            let config = blocks(&text, "yaml").next().expect("a configuration");
            shows_what_happens(document, &config.lines.join("\n"));
        }),
        trial("what a document shows is compared", &[], compares),
    ]
}

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("it is there")
}

/// A fenced block of a document.
struct Block<'a> {
    /// The number of its first line.
    first: usize,
    lines: Vec<&'a str>,
}

fn blocks<'a>(text: &'a str, kind: &str) -> impl Iterator<Item = Block<'a>> {
    let fence = format!("```{kind}");
    let mut lines = (1..).zip(text.lines());
    std::iter::from_fn(move || {
        let (at, _) = lines.by_ref().find(|(_, line)| *line == fence)?;
        let lines = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        Some(Block { first: at + 1, lines })
    })
}

/// A command of an example, and what it is to print.
struct Example<'a> {
    line: usize,
    command: String,
    prints: Vec<&'a str>,
}

fn examples<'a>(block: &Block<'a>) -> Vec<Example<'a>> {
    let mut examples: Vec<Example<'a>> = Vec::new();
    for (line, text) in (block.first..).zip(&block.lines) {
        if let Some(command) = text.strip_prefix("$ ") {
            examples.push(Example { line, command: command.to_owned(), prints: Vec::new() });
            continue;
        }
        let example = examples.last_mut().unwrap_or_else(|| panic!("line {line} belongs to no command"));
        match text.strip_prefix("> ").filter(|_| example.prints.is_empty()) {
            Some(more) => example.command += &format!("\n{more}"),
            None => example.prints.push(text),
        }
    }
    examples
}

fn shows_what_happens(document: &str, config: &str) {
    let text = read(document);
    let mount = Vmdisk::mount_in(folder(), config, &[]);
    let (mut run, mut faults) = (0, Vec::new());
    for block in blocks(&text, "console") {
        let examples = examples(&block);
        let printed = in_shell(&mount, &examples);
        assert_eq!(printed.len(), examples.len(), "{document}:{}: the shell ended early", block.first);
        for (example, printed) in examples.iter().zip(&printed) {
            run += 1;
            let lines: Vec<_> = printed.lines().collect();
            if !is_like(&example.prints, &lines) {
                let (line, command, wanted) = (example.line, &example.command, example.prints.join("\n"));
                faults.push(format!(
                    "{document}:{line}: $ {command}\nis to print\n{wanted}\nand prints\n{printed}"
                ));
            }
        }
    }
    assert!(run > 3, "{document} has {run} examples");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Runs the commands of a block in one shell, in the folder of the mount; what each printed.
fn in_shell(mount: &Vmdisk, examples: &[Example<'_>]) -> Vec<String> {
    let script: String =
        examples.iter().map(|example| format!("{}\necho '{MARK}'\n", example.command)).collect();
    let program = Path::new(env!("CARGO_BIN_EXE_ioband")).parent().expect("a folder");
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("timeout");
    shell.args([PATIENCE, "bash", "-c", &format!("exec 2>&1\n{script}")]).current_dir(mount.folder());
    shell.env("PATH", format!("{}:{}:{path}", program.display(), shim.display()));
    shell.env("IOBAND_MOUNTPOINT", mount.path()).env("LC_ALL", "C.UTF-8");
    let output = shell.output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut printed: Vec<_> = text.split(&format!("{MARK}\n")).map(str::to_owned).collect();
    // Behind the last mark is nothing, unless the shell ended before it.
    printed.pop();
    printed
}

/// Whether lines are what a document says.
fn is_like(wanted: &[&str], lines: &[&str]) -> bool {
    match wanted {
        [] => lines.is_empty(),
        ["…", rest @ ..] => (0..=lines.len()).any(|from| is_like(rest, &lines[from..])),
        [first, rest @ ..] => {
            lines.split_first().is_some_and(|(line, more)| is_line_like(first, line) && is_like(rest, more))
        }
    }
}

fn is_line_like(wanted: &str, line: &str) -> bool {
    match wanted.split_once('…') {
        None => wanted == line,
        Some((before, rest)) => line.strip_prefix(before).is_some_and(|line| {
            let places = line.char_indices().map(|(at, _)| at).chain([line.len()]);
            places.into_iter().any(|from| is_line_like(rest, &line[from..]))
        }),
    }
}

fn compares() {
    let text = "```yaml\na: 1\n```\n```console\n$ one \\\n> two\n> b…d\n…\nlast\n$ quiet\n```\n";
    let block = blocks(text, "console").next().expect("a block");
    let [example, quiet] = &examples(&block)[..] else { panic!("two commands") };
    assert_eq!((example.line, example.command.as_str()), (5, "one \\\ntwo\nb…d"));
    assert_eq!((example.prints.as_slice(), quiet.prints.len()), (&["…", "last"][..], 0));
    for (wanted, lines, is) in [
        (&["b…d"][..], &["bcd"][..], true),
        (&["b…d"], &["bd"], true),
        (&["b…d…"], &["bdxd"], true),
        (&["b…d"], &["bcde"], false),
        (&["b"], &["bc"], false),
        (&["…", "last"], &["a", "b", "last"], true),
        (&["…", "last"], &["last"], true),
        (&["…", "last"], &["last", "more"], false),
        (&["one"], &[], false),
        (&[], &["one"], false),
    ] {
        assert_eq!(is_like(wanted, lines), is, "{wanted:?} and {lines:?}");
    }
}
