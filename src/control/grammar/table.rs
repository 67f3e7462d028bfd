//! A table line.

use super::limit::{LimitKey, Share, range};
use super::words::{escape, escaped, unescaped, value};
use crate::classify::GroupType;
use crate::config::{choose, file_name, quoted, values};
use crate::control::Refusal;
use crate::sched::Policy;
use crate::units::{SECTOR_SIZE, Sectors, Weight};
use std::fmt;
use std::str::{FromStr, SplitWhitespace};

/// One ioband device, as a table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableLine {
    /// The ioband device, where it is named.
    pub name: Option<String>,
    /// How much of the device is used, from its beginning; at least 1.
    pub length: Sectors,
    /// What is behind it.
    pub device: TableDevice,
    /// The disk.
    pub id: u32,
    /// In-flight requests above which control starts; 0 = automatic.
    pub io_throttle: u32,
    /// Most requests in flight; 0 = automatic.
    pub io_limit: u32,
    /// How callers are told apart.
    pub group_type: GroupType,
    /// What a request costs.
    pub policy: Policy,
    /// Tokens handed out per epoch; 0 = the default.
    pub token_base: u32,
    /// What the default group is to have.
    pub default: Share,
    /// Further groups by their ids, each once; ids are never empty.
    pub groups: Vec<(String, Share)>,
}

/// What a table calls a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableDevice {
    /// By its path; never empty.
    Path(String),
    /// A block device by MAJOR:MINOR.
    Number(u64, u64),
}

/// What a table looks like.
const SHAPE: &str = "START LENGTH ioband DEVICE DEVICE_ID IO_THROTTLE IO_LIMIT TYPE POLICY TOKEN_BASE :WEIGHT [ID:WEIGHT ...]";

impl FromStr for TableLine {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let mut words = Words(text.split_whitespace());
        let mut start = words.next("START")?;
        let mut name = None;
        if let Some(word) = start.strip_suffix(':') {
            let plain = "write a plain name before the colon, such as ioband1:";
            name = Some(value("the name of the device", word, plain, file_name)?);
            start = words.next("START")?;
        }
        if start != "0" {
            let shown = quoted(start);
            return Err(Refusal::invalid(format!(
                "a table starts at sector 0, not at {shown}; write {SHAPE}"
            )));
        }
        let most = i64::MAX as u64 / SECTOR_SIZE;
        let sectors = "write the sectors that `blockdev --getsz` prints";
        let length = value("the length", words.next("LENGTH")?, sectors, values::number(1..=most))?;
        let target = words.next("ioband")?;
        if target != "ioband" {
            let shown = quoted(target);
            return Err(Refusal::invalid(format!("there is no target {shown} here; write `ioband`")));
        }
        let device = words.next("DEVICE")?.parse()?;
        let id = value("the device id", words.next("DEVICE_ID")?, values::DISK, values::disk_id)?;
        let io_throttle = value("io_throttle", words.next("IO_THROTTLE")?, values::DEPTH, values::depth)?;
        let io_limit = value("io_limit", words.next("IO_LIMIT")?, values::DEPTH, values::depth)?;
        let group_type = value("the type", words.next("TYPE")?, values::TYPE, values::group_type)?;
        let policy = value("the policy", words.next("POLICY")?, values::POLICY, values::policy)?;
        let tokens = words.next("TOKEN_BASE")?;
        let token_base = value("the token base", tokens, values::TOKENS, values::token_base)?;
        let mut line = TableLine {
            name,
            length: Sectors(length),
            device,
            id,
            io_throttle,
            io_limit,
            group_type,
            policy,
            token_base,
            default: Share::default(),
            groups: Vec::new(),
        };
        line.shares(words.0)?;
        Ok(line)
    }
}

/// The words of a line; every one up to the shares must be there.
struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, Refusal> {
        let ends = || Refusal::invalid(format!("the table ends before {what}; write {SHAPE}"));
        self.0.next().ok_or_else(ends)
    }
}

impl TableLine {
    /// Reads the shares and the extras.
    fn shares(&mut self, mut words: SplitWhitespace<'_>) -> Result<(), Refusal> {
        let mut places = Places::default();
        let mut extras = false;
        while let Some(word) = words.next() {
            if word.contains(':') && !extras {
                let (id, share) = share(word, self.policy)?;
                let first = match id {
                    "" => !std::mem::replace(&mut places.default, true),
                    id => places.groups.insert(id.to_owned(), self.groups.len()).is_none(),
                };
                match (first, id) {
                    (false, "") => {
                        return Err(Refusal::invalid("the default group stands twice; keep one of the two"));
                    }
                    (false, id) => {
                        let shown = quoted(id);
                        return Err(Refusal::invalid(format!(
                            "group {shown} stands twice; keep one of the two"
                        )));
                    }
                    (true, "") => self.default = share,
                    (true, id) => self.groups.push((id.to_owned(), share)),
                }
            } else {
                extras = true;
                self.extra(word, words.next(), &places)?;
            }
        }
        Ok(())
    }

    /// Reads one pair `KEY [ID]:VALUE`.
    fn extra(&mut self, key: &str, setting: Option<&str>, places: &Places) -> Result<(), Refusal> {
        let known = self.extra_keys();
        if !known.contains(&key) {
            let shown = quoted(key);
            let message = match key.contains(':') {
                true => {
                    format!("behind the groups stand pairs KEY ID:VALUE, and {shown} is none of the keys")
                }
                false => {
                    format!("{shown} is neither a group with its share nor one of the keys behind the groups")
                }
            };
            return Err(Refusal::invalid(format!("{message}; {}", choose(key, &known))));
        }
        let Some((id, text)) = setting.and_then(|setting| setting.rsplit_once(':')) else {
            let message = format!(
                "`{key}` has no value; write `{key} ID:VALUE`, or `{key} :VALUE` for the default group"
            );
            return Err(Refusal::invalid(message));
        };
        let share = match (id, places.groups.get(id)) {
            ("", _) => &mut self.default,
            (_, Some(place)) => &mut self.groups[*place].1,
            (_, None) => {
                let shown = quoted(id);
                let message =
                    format!("`{key}` is for group {shown}, which is not in the table; add its share before");
                return Err(Refusal::invalid(message));
            }
        };
        match LimitKey::parse(key) {
            None => share.weight = value("the weight", text, values::WEIGHT, values::weight)?,
            Some(limit) => {
                let number = limit.value(text)?;
                if share.limit(limit).is_some() {
                    let whom = if id.is_empty() { "the default group".into() } else { quoted(id) };
                    return Err(Refusal::invalid(format!(
                        "`{key}` of {whom} stands twice; keep one of the two"
                    )));
                }
                let burst = matches!(limit, LimitKey::BandwidthBurst | LimitKey::IopsBurst);
                *share.limit_mut(limit) = Some(number).filter(|number| burst || *number != 0);
            }
        }
        Ok(())
    }

    /// The keys of the extras that this policy has no other place for.
    fn extra_keys(&self) -> Vec<&'static str> {
        let limits = LimitKey::ALL.into_iter();
        match self.policy {
            Policy::RangeBw => {
                let others = limits.filter(|key| *key != LimitKey::MaxBandwidth).map(LimitKey::as_str);
                std::iter::once("weight").chain(others).collect()
            }
            Policy::Weight | Policy::WeightIosize => limits.map(LimitKey::as_str).collect(),
        }
    }

    /// All groups, the default group first, under an empty id.
    fn all(&self) -> impl Iterator<Item = (&str, &Share)> {
        let groups = self.groups.iter().map(|(id, share)| (id.as_str(), share));
        std::iter::once(("", &self.default)).chain(groups)
    }
}

/// Where the shares are that have been read.
#[derive(Default)]
struct Places {
    default: bool,
    groups: std::collections::HashMap<String, usize>,
}

/// Reads `[ID]:WEIGHT` or `[ID]:MIN:MAX`.
fn share(word: &str, policy: Policy) -> Result<(&str, Share), Refusal> {
    let shape = || match policy {
        Policy::RangeBw => format!("{} is no share; under range-bw write ID:MIN:MAX", quoted(word)),
        Policy::Weight | Policy::WeightIosize => format!("{} is no share; write ID:WEIGHT", quoted(word)),
    };
    let (before, last) = word.rsplit_once(':').ok_or_else(|| Refusal::invalid(shape()))?;
    let (id, share) = match policy {
        Policy::Weight | Policy::WeightIosize => {
            let weight: Weight = value("the weight", last, values::WEIGHT, values::weight)?;
            (before, Share { weight, ..Share::default() })
        }
        Policy::RangeBw => {
            let (id, min) = before.rsplit_once(':').ok_or_else(|| Refusal::invalid(shape()))?;
            let (min, max) = range(id, min, last)?;
            (id, Share { min, max, ..Share::default() })
        }
    };
    if id == "-1" {
        let right = if policy == Policy::RangeBw { ":MIN:MAX" } else { ":WEIGHT" };
        return Err(Refusal::invalid(format!("in a table the default group has no id; write `{right}`")));
    }
    Ok((id, share))
}

impl fmt::Display for TableLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}: ")?;
        }
        let TableLine { length, device, id, io_throttle, io_limit, token_base, policy, .. } = self;
        let group_type = self.group_type.as_str();
        write!(f, "0 {length} ioband {device} {id} {io_throttle} {io_limit} {group_type} ")?;
        write!(f, "{} {token_base}", policy.as_str())?;
        for (id, share) in self.all() {
            write!(f, " {}", share.word(id, *policy))?;
        }
        for key in self.extra_keys() {
            for (id, share) in self.all() {
                let said = match LimitKey::parse(key) {
                    None => {
                        Some(share.weight).filter(|w| *w != Weight::default()).map(|w| u64::from(w.get()))
                    }
                    Some(limit) => share.limit(limit),
                };
                if let Some(said) = said {
                    write!(f, " {key} {id}:{said}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for TableDevice {
    type Err = Refusal;

    fn from_str(word: &str) -> Result<Self, Refusal> {
        if let Some((major, minor)) = numbers(word) {
            return Ok(Self::Number(major, minor));
        }
        let refused =
            || Refusal::invalid(format!("the device {} is not text in UTF-8; rename it", quoted(word)));
        unescaped(word).map(Self::Path).ok_or_else(refused)
    }
}

fn numbers(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    Some((number(major)?, number(minor)?))
}

impl fmt::Display for TableDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(major, minor) => write!(f, "{major}:{minor}"),
            // A file in the current folder may have such a name.
            Self::Path(path) if numbers(path).is_some() => {
                let mut colon = String::new();
                escape(':', &mut colon);
                f.write_str(&path.replace(':', &colon))
            }
            Self::Path(path) => f.write_str(&escaped(path)),
        }
    }
}
