//! One engine per disk: it joins the scheduler and the device, and answers every accepted request exactly once.
//!
//! The life of a request, top to bottom:
//!
//! 1. The transport classifies the caller and calls [`Engine::submit`], which never waits: the request is entered in
//!    the table, given to the scheduler, and what the scheduler lets pass goes to the device.
//! 2. The engine's one thread waits for the device. A completion goes back to the scheduler, which lets the next
//!    requests pass; only then is the reply sent, so that the device never idles while we talk.
//! 3. The reply is consumed by being sent. A request that is dropped unanswered (the thread died) answers EIO.
//!
//! Requests and replies are types of our own: the engine does not know by which transport a request came.
#![forbid(unsafe_code)]

mod band;
mod core;
mod image;
mod request;
mod seek;
#[cfg(test)]
mod tests;

pub use self::core::{Engine, EngineError, EngineSettings};
pub use band::{BandSettings, BandStatus, GroupStatus};
pub use image::Image;
pub use request::{Answer, Reply, Request, Work};
