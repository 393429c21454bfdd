//! The console, as a browser without JavaScript sees it.

mod actions;
mod bases;
mod browser;
mod hostile;
mod letters;
mod lists;
mod live;
mod log_in;
mod pages;
mod registry;
mod system;
mod webhooks;
mod workers;
