//! The chat page: what is shown of what users and agents say, and who may show the page.

use super::Breach;

pub(super) const BREACHES: &[Breach] = &[
    Breach {
        threat: "T26",
        defence: "what an agent wrote is cleaned before it is shown",
        file: "hub/portal/markdown.js",
        find: "purify.sanitize(/** @type {string} */ (marked.parse(text)), ALLOWED)",
        replace: "document.createRange().createContextualFragment(marked.parse(text))",
        test: "browser:hostile::no_text_runs_anything_or_asks_anybody",
    },
    Breach {
        threat: "T26",
        defence: "pictures in what an agent wrote become links",
        file: "hub/portal/markdown.js",
        find: "if (node.nodeName === \"IMG\") {",
        replace: "if (node.nodeName === \"NONE\") {",
        test: "browser:hostile::no_text_runs_anything_or_asks_anybody",
    },
    Breach {
        threat: "T26",
        defence: "the page's policy lets nothing in but its own files",
        file: "hub/src/portal.rs",
        find: "script-src 'self'; style-src",
        replace: "script-src 'self' 'unsafe-inline'; style-src",
        test: "page_files::every_file_comes_with_its_type_and_with_what_guards_it",
    },
    Breach {
        threat: "T26",
        defence: "only named pages may show the chat",
        file: "hub/src/portal.rs",
        find: "base-uri 'none'; form-action 'none'; object-src 'none'; frame-ancestors {frames}; \\",
        replace: "base-uri 'none'; form-action 'none'; object-src 'none'; frame-ancestors * {frames}; \\",
        test: "page_files::only_named_pages_may_show_it_and_it_is_told_which_and_where_rest_is",
    },
];
