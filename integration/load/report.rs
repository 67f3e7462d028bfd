//! What is counted, and the line that says it.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

/// The counts of one thread, or of all.
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// By the error's number; `short` for a request that moved fewer bytes than it was to.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
    latency: Histogram<u64>,
}

impl Default for Report {
    fn default() -> Self {
        // Three digits of precision, growing as needed, is a setting that is always valid.
        let latency = Histogram::new(3).expect("3 is between 0 and 5");
        Self { requests: 0, bytes: 0, errors: BTreeMap::new(), seconds: 0.0, latency }
    }
}

impl Report {
    /// Counts one request that took `nanos`, and moved so many bytes or failed. Only what succeeded has a latency.
    pub(crate) fn record(&mut self, nanos: u64, result: io::Result<u64>) {
        match result {
            Ok(bytes) => {
                self.requests += 1;
                self.bytes += bytes;
                self.latency += nanos.max(1);
            }
            Err(error) => {
                let number =
                    error.raw_os_error().map_or_else(|| "short".to_owned(), |errno| errno.to_string());
                *self.errors.entry(number).or_default() += 1;
            }
        }
    }

    /// Takes in another thread's counts.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.latency += other.latency;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    /// Says how long counting took.
    pub(crate) fn over(self, window: Duration) -> Self {
        Self { seconds: window.as_secs_f64(), ..self }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors: Vec<_> =
            self.errors.iter().map(|(error, count)| format!("\"{error}\":{count}")).collect();
        let iops = if self.seconds > 0.0 { self.requests as f64 / self.seconds } else { 0.0 };
        let us = |nanos: u64| nanos as f64 / 1000.0;
        write!(
            f,
            "{{\"requests\":{},\"bytes\":{},\"errors\":{},\"errno\":{{{}}},\"seconds\":{:.3},\"iops\":{iops:.1},\
             \"latency_us\":{{\"mean\":{:.1},\"p50\":{:.1},\"p99\":{:.1},\"max\":{:.1}}}}}",
            self.requests,
            self.bytes,
            self.errors.values().sum::<u64>(),
            errors.join(","),
            self.seconds,
            self.latency.mean() / 1000.0,
            us(self.latency.value_at_quantile(0.5)),
            us(self.latency.value_at_quantile(0.99)),
            us(self.latency.max()),
        )
    }
}
