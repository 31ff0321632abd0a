// Set the chosen theme before the first paint. Not a module, so that it runs while the page is read.
(() => {
  const chosen = localStorage.getItem("soundstage.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
