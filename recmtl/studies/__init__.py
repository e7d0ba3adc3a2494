"""Studies: questions that take several runs to answer."""

