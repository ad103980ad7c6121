"""What is stored and where: recipes, keys, layouts, publishing."""
