//! The engine against a real Docker Engine, and a real registry where one is needed.

mod base_image;
mod build;
mod fixture;
mod images;
mod run;
