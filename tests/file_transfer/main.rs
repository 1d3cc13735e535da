//! File transfers from outside: two connection managers, two buses, the loopback interface, and files.

mod ending;
mod flowing;
mod people;
