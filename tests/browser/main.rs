//! The chat page in a real browser: what people see and do, against the whole product. A process of its own, since a browser
//! takes as much of a machine as everything else.

mod signing_in;
