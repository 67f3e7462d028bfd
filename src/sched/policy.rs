//! What a request costs (share rule R2).

/// What is asked of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Bytes from the device.
    Read,
    /// Bytes to the device.
    Write,
    /// What was written becomes durable.
    Flush,
    /// A range becomes zeroes without moving bytes: discard and write-zeroes.
    Discard,
}

impl Op {
    /// Whether bytes go to the device or come from it.
    pub fn moves_bytes(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

/// How requests are charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One token a request.
    Weight,
    /// One token a sector.
    WeightIosize,
    /// As [`Policy::WeightIosize`], once everybody has its minimum bandwidth, and up to the maximum (share rule R11;
    /// dm-ioband 1.12). The bounds are in [`super::Limits`].
    RangeBw,
}

impl Policy {
    /// A discard of any length costs at most this many tokens: it moves no bytes, yet it is not free.
    pub const DISCARD_CAP: u32 = 2048;

    /// Every policy, in the order people list them.
    pub const ALL: [Policy; 3] = [Self::Weight, Self::WeightIosize, Self::RangeBw];

    /// The word for it in tables, messages and YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::WeightIosize => "weight-iosize",
            Self::RangeBw => "range-bw",
        }
    }

    /// Tokens that a request of `sectors` (rounded up) costs; at least 1, so that nothing is free.
    pub fn cost(self, op: Op, sectors: u32) -> u32 {
        match (self, op) {
            (Self::Weight, _) | (_, Op::Flush) => 1,
            (Self::WeightIosize | Self::RangeBw, Op::Discard) => sectors.clamp(1, Self::DISCARD_CAP),
            (Self::WeightIosize | Self::RangeBw, Op::Read | Op::Write) => sectors.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_rule_r2() {
        for op in [Op::Read, Op::Write, Op::Flush, Op::Discard] {
            assert_eq!(Policy::Weight.cost(op, 4096), 1);
        }
        for by_sector in [Policy::WeightIosize, Policy::RangeBw] {
            assert_eq!(by_sector.cost(Op::Read, 8), 8);
            assert_eq!(by_sector.cost(Op::Write, 0), 1);
            assert_eq!(by_sector.cost(Op::Flush, 0), 1);
            assert_eq!(by_sector.cost(Op::Discard, 100_000), 2048);
            assert_eq!(by_sector.cost(Op::Discard, 16), 16);
        }
    }
}
