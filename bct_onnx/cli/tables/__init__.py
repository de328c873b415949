"""What commands print: one file per kind of table. Nothing here measures anything."""
