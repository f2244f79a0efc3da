//! Images: archives and layouts, layers merged into one EROFS image, the store.
