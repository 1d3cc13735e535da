//! What survives a failure, case by case.
