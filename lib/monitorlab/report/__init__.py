"""Pages: a run rendered as HTML, with mathematics and figures, readable offline."""
