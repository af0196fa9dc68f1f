"""The query language: text to a tree (`parser`), a tree to SQL with parameters (`compiler`)."""
