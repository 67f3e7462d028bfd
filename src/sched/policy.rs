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

/// How requests are charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One token a request.
    Weight,
    /// One token a sector.
    WeightIosize,
}

impl Policy {
    /// A discard of any length costs at most this many tokens: it moves no bytes, yet it is not free.
    pub const DISCARD_CAP: u32 = 2048;

    /// The word for it in tables, messages and YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::WeightIosize => "weight-iosize",
        }
    }

    /// Tokens that a request of `sectors` (rounded up) costs; at least 1, so that nothing is free.
    pub fn cost(self, op: Op, sectors: u32) -> u32 {
        match (self, op) {
            (Self::Weight, _) | (_, Op::Flush) => 1,
            (Self::WeightIosize, Op::Discard) => sectors.clamp(1, Self::DISCARD_CAP),
            (Self::WeightIosize, Op::Read | Op::Write) => sectors.max(1),
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
        assert_eq!(Policy::WeightIosize.cost(Op::Read, 8), 8);
        assert_eq!(Policy::WeightIosize.cost(Op::Write, 0), 1);
        assert_eq!(Policy::WeightIosize.cost(Op::Flush, 0), 1);
        assert_eq!(Policy::WeightIosize.cost(Op::Discard, 100_000), 2048);
        assert_eq!(Policy::WeightIosize.cost(Op::Discard, 16), 16);
    }
}
