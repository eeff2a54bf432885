// Before the first paint, and not a module for that reason: the theme that was chosen here.
{
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
