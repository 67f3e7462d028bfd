//! What a request costs (share rule R2).

/// What a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One token a request.
    Weight,
    /// One token a sector.
    WeightIosize,
}

impl Policy {
    /// The word for it in tables, messages and YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::WeightIosize => "weight-iosize",
        }
    }
}
