// A place for the page.
