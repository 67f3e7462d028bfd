//! A message to an ioband device.

use super::limit::{LimitKey, range};
use super::words::value;
use crate::classify::GroupType;
use crate::config::{SimulatePlan, choose, quoted, values};
use crate::control::Refusal;
use crate::sched::Policy;
use crate::units::{Bytes, Weight};
use std::fmt;
use std::str::FromStr;

/// What a message asks for. Where there is an id, `None` is the default group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Tell callers apart this way.
    Type(GroupType),
    /// A new group.
    Attach(String),
    /// The group goes.
    Detach(String),
    /// The weight of a group.
    Weight(Option<String>, Weight),
    /// The token base; 0 = the default.
    Token(u32),
    /// In-flight requests above which control starts; 0 = automatic.
    IoThrottle(u32),
    /// Most requests in flight; 0 = automatic.
    IoLimit(u32),
    /// What a request costs.
    Policy(Policy),
    /// Minimum and maximum of a group in KB/s of 1024 bytes, 0 for none; never a minimum above the maximum.
    RangeBw(Option<String>, u64, u64),
    /// A limit of a group in bytes or requests; a cap of 0 is none.
    Limit(LimitKey, Option<String>, u64),
    /// Make the disk this slow, or as fast as it is.
    Simulate(Option<SimulatePlan>),
    /// The counters of the device start again.
    Reset,
    /// What is at the path of the device now is what it is on.
    Reopen,
}

/// The first words of all messages.
const KNOWN: [&str; 16] = [
    "type",
    "attach",
    "detach",
    "weight",
    "token",
    "io_throttle",
    "io_limit",
    "policy",
    "range-bw",
    "reset",
    "reopen",
    "max_bandwidth",
    "bandwidth_burst",
    "max_iops",
    "iops_burst",
    "simulate",
];

impl FromStr for Message {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let mut words = text.split_whitespace();
        let Some(first) = words.next() else {
            let known = choose("", &KNOWN);
            return Err(Refusal::invalid(format!("the message is empty; {known}")));
        };
        if !KNOWN.contains(&first) {
            let known = choose(first, &KNOWN);
            return Err(Refusal::invalid(format!("there is no message {}; {known}", quoted(first))));
        }
        let (argument, more) = (words.next(), words.next());
        let wanted = shape(first);
        match (argument, more) {
            (None, None) if first == "reset" => Ok(Self::Reset),
            (None, None) if first == "reopen" => Ok(Self::Reopen),
            (Some(argument), None) if !["reset", "reopen"].contains(&first) => read(first, argument),
            (None, _) => Err(Refusal::invalid(format!("`{first}` says nothing; write `{wanted}`"))),
            (_, Some(more)) | (Some(more), _) => Err(Refusal::invalid(format!(
                "{} is one word too many for `{first}`; write `{wanted}`",
                quoted(more)
            ))),
        }
    }
}

/// What a message with this first word looks like.
fn shape(first: &str) -> &'static str {
    match first {
        "type" => "type TYPE",
        "attach" => "attach ID",
        "detach" => "detach ID",
        "weight" => "weight ID:WEIGHT",
        "token" => "token TOKENS",
        "io_throttle" => "io_throttle REQUESTS",
        "io_limit" => "io_limit REQUESTS",
        "policy" => "policy POLICY",
        "range-bw" => "range-bw ID:MIN:MAX",
        "max_bandwidth" => "max_bandwidth ID:SIZE",
        "bandwidth_burst" => "bandwidth_burst ID:SIZE",
        "max_iops" => "max_iops ID:REQUESTS",
        "iops_burst" => "iops_burst ID:REQUESTS",
        "simulate" => "simulate IOPS:BANDWIDTH:PARALLEL",
        "reopen" => "reopen",
        _ => "reset",
    }
}

/// Reads what follows the first word.
fn read(first: &str, argument: &str) -> Result<Message, Refusal> {
    match first {
        "type" => value("the type", argument, values::TYPE, values::group_type).map(Message::Type),
        "attach" => named(argument, "attach another id").map(Message::Attach),
        "detach" => named(argument, "it cannot be detached").map(Message::Detach),
        "weight" => {
            let (id, text) = of_group(argument);
            Ok(Message::Weight(id, value("the weight", text, values::WEIGHT, values::weight)?))
        }
        "token" => value("the token base", argument, values::TOKENS, values::token_base).map(Message::Token),
        "io_throttle" => value(first, argument, values::DEPTH, values::depth).map(Message::IoThrottle),
        "io_limit" => value(first, argument, values::DEPTH, values::depth).map(Message::IoLimit),
        "policy" => value("the policy", argument, values::POLICY, values::policy).map(Message::Policy),
        "range-bw" => {
            let Some((before, max)) = argument.rsplit_once(':') else {
                let shown = quoted(argument);
                return Err(Refusal::invalid(format!("{shown} is no range; write `range-bw ID:MIN:MAX`")));
            };
            let (id, min) = of_group(before);
            let (min, max) = range(id.as_deref().unwrap_or_default(), min, max)?;
            Ok(Message::RangeBw(id, min, max))
        }
        "simulate" => simulate(argument).map(Message::Simulate),
        limit => match LimitKey::parse(limit) {
            Some(key) => {
                let (id, text) = of_group(argument);
                Ok(Message::Limit(key, id, key.value(text)?))
            }
            None => Err(Refusal::invalid(format!("`{limit}` stands alone"))),
        },
    }
}

/// The id of a group that can come and go.
fn named(word: &str, otherwise: &str) -> Result<String, Refusal> {
    if word == "-1" {
        let message = format!("-1 stands for the default group, which is always there; {otherwise}");
        return Err(Refusal::invalid(message));
    }
    Ok(word.to_owned())
}

/// Splits `[ID:]VALUE` at the last colon.
fn of_group(word: &str) -> (Option<String>, &str) {
    match word.rsplit_once(':') {
        None => (None, word),
        Some(("" | "-1", value)) => (None, value),
        Some((id, value)) => (Some(id.to_owned()), value),
    }
}

fn simulate(argument: &str) -> Result<Option<SimulatePlan>, Refusal> {
    if argument == "none" {
        return Ok(None);
    }
    let right = "write `simulate IOPS:BANDWIDTH:PARALLEL`, such as 2000:100MiB:1, or `simulate none`";
    let parts: Vec<&str> = argument.split(':').collect();
    let [iops, bandwidth, parallel] = parts[..] else {
        return Err(Refusal::invalid(format!("{} says not how slow; {right}", quoted(argument))));
    };
    let plan = SimulatePlan {
        iops: Some(value("the iops", iops, values::IOPS, values::iops)?).filter(|iops| *iops != 0),
        bandwidth: Some(value("the bandwidth", bandwidth, values::BANDWIDTH, values::bandwidth)?)
            .filter(|bandwidth| *bandwidth != Bytes(0)),
        parallel: value("the number of servers", parallel, values::PARALLEL, values::parallel)?,
    };
    if (plan.iops, plan.bandwidth) == (None, None) {
        return Err(Refusal::invalid(format!("neither iops nor bandwidth is slower than a device; {right}")));
    }
    Ok(Some(plan))
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(group_type) => write!(f, "type {}", group_type.as_str()),
            Self::Attach(id) => write!(f, "attach {id}"),
            Self::Detach(id) => write!(f, "detach {id}"),
            Self::Weight(id, weight) => write!(f, "weight {}{weight}", Before(id)),
            Self::Token(tokens) => write!(f, "token {tokens}"),
            Self::IoThrottle(requests) => write!(f, "io_throttle {requests}"),
            Self::IoLimit(requests) => write!(f, "io_limit {requests}"),
            Self::Policy(policy) => write!(f, "policy {}", policy.as_str()),
            Self::RangeBw(id, min, max) => write!(f, "range-bw {}{min}:{max}", Before(id)),
            Self::Limit(key @ (LimitKey::MaxIops | LimitKey::IopsBurst), id, value) => {
                write!(f, "{} {}{value}", key.as_str(), Before(id))
            }
            Self::Limit(key, id, value) => write!(f, "{} {}{}", key.as_str(), Before(id), Bytes(*value)),
            Self::Simulate(None) => f.write_str("simulate none"),
            Self::Simulate(Some(SimulatePlan { iops, bandwidth, parallel })) => {
                write!(f, "simulate {}:{}:{parallel}", iops.unwrap_or(0), bandwidth.unwrap_or(Bytes(0)))
            }
            Self::Reset => f.write_str("reset"),
            Self::Reopen => f.write_str("reopen"),
        }
    }
}

/// The id before a value.
struct Before<'a>(&'a Option<String>);

impl fmt::Display for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |id| write!(f, "{id}:"))
    }
}
