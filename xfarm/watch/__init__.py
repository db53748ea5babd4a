"""A page that shows a deployed pipeline at work: files going in, messages moving, results coming out."""
