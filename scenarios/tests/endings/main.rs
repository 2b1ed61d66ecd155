//! What is left, and what is said, when a run ends badly: each test starts this same binary as a fixture, with real
//! QEMUs, and looks at its words, its result and what it leaves behind.

mod captures;
mod fixture;
mod hosts;
mod run;
mod signals;

use scenarios::prelude::*;

fn main() -> ExitCode {
    if std::env::var_os(run::FIXTURE).is_some() {
        return fixture::suite().run();
    }
    suite("endings")
        .test("qemu_is_missing", hosts::qemu_is_missing)
        .test("qemu_is_too_old", hosts::qemu_is_too_old)
        .test("the_accelerator_is_a_word_that_means_nothing", hosts::accel_unknown)
        .test("the_image_is_a_text_file", hosts::image_is_text)
        .test("the_image_is_cut_in_half", hosts::image_is_cut)
        .test("the_lab_is_bigger_than_the_host", hosts::lab_is_too_big)
        .test("the_disk_of_the_host_is_full", hosts::disk_is_full)
        .test("qemu_is_killed", signals::qemu_is_killed)
        .test("frames_are_left_after_a_failure", captures::left)
        .test("the_test_is_interrupted", signals::interrupted)
        .test("the_test_is_killed", signals::killed)
        .run()
}
