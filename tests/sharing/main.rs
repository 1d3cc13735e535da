//! A bus service shared with a contact, used from the contact's side with the tools that people have:
//! two buses' worth of processes, and a pair of sockets where the tube would be.

mod clients;
mod dying;
mod ending;
mod halves;
mod hostile;
mod own;
mod shared_part;
mod tools;
