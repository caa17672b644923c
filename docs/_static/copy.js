/* A button on every block of code copies it; doctests are copied without prompts and output. */
document.addEventListener("DOMContentLoaded", () => {
  if (!navigator.clipboard) return; // pages opened from a disk, in some browsers
  const code = "div.highlight-python, div.highlight-default, div.highlight-bash, div.cell_input, div.highlight-ipython3";
  document.querySelectorAll(code).forEach((block) => {
    const pre = block.querySelector("pre");
    if (!pre || pre.parentElement.querySelector("button.copy")) return;
    const button = document.createElement("button");
    button.className = "copy";
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy this code");
    button.addEventListener("click", async () => {
      const lines = pre.textContent.replace(/\n$/, "").split("\n");
      const typed = lines.filter((line) => /^(>>>|\.\.\.)( |$)/.test(line));
      const text = typed.length ? typed.map((line) => line.slice(4)).join("\n") : lines.join("\n");
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    pre.parentElement.appendChild(button);
  });
});
