//! Plans: what they print reads back, and every change of one is another one, or is refused in a sentence.

mod edits;
mod settings;
mod stage;
mod tables;
mod yaml;
