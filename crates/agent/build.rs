//! A new migration alone must make `sqlx::migrate!` embed it.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
