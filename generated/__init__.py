"""Everything here is written by ``cri-codegen generate``; nothing here is edited by hand."""
