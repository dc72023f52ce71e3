"""maxcrops inside other libraries: one module for each, which imports that library only when it is used."""
