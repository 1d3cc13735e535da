//! Places where a test may kill a stream's actor, with an error or a panic. Without tests a point is
//! nothing at all.

use actors::runtime::Failure;

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The greeting is done, the session has not been asked.
    Greeted,
    /// The session believes the peer; the stream does not run yet.
    Admitted,
    /// An event is there, nothing is decided.
    Decide,
    /// Decided, and about to wait again.
    Decided,
}

/// What a test has planned; nothing otherwise. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    #[cfg(test)]
    plan: std::sync::Arc<std::sync::Mutex<Option<Plan>>>,
}

#[cfg(test)]
#[derive(Clone, Copy, Debug)]
struct Plan {
    point: Point,
    passes: u32,
    panic: bool,
}

impl Faults {
    /// Comes by a point; dies there if that is planned.
    ///
    /// # Errors
    /// The planned failure.
    #[cfg(not(test))]
    pub fn hit(&self, _point: Point) -> Result<(), Failure> {
        Ok(())
    }

    /// Comes by a point; dies there if that is planned.
    ///
    /// # Errors
    /// The planned failure.
    #[cfg(test)]
    pub fn hit(&self, point: Point) -> Result<(), Failure> {
        {
            let mut plan = self.plan.lock().unwrap();
            match &mut *plan {
                Some(planned) if planned.point == point && planned.passes == 0 => {
                    let panic = planned.panic;
                    *plan = None;
                    drop(plan);
                    assert!(!panic, "planned at {point:?}");
                    return Err(Failure::Failed(format!("planned at {point:?}")));
                }
                Some(planned) if planned.point == point => planned.passes -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Plans one death: at this point, after it was passed so many times.
    #[cfg(test)]
    pub fn plan(&self, point: Point, passes: u32, panic: bool) {
        *self.plan.lock().unwrap() = Some(Plan {
            point,
            passes,
            panic,
        });
    }

    /// Whether the planned death has happened, or none was planned.
    #[cfg(test)]
    pub fn is_over(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }
}
