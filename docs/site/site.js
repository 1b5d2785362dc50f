// What scrolls sideways takes the keyboard's focus, so that arrow keys scroll it; the search has a name for screen readers.
{
  const update = () => {
    for (const each of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
      if (each.scrollWidth > each.clientWidth) each.tabIndex = 0
      else each.removeAttribute("tabindex")
    }
  }
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  addEventListener("load", update)
  addEventListener("resize", update)
}
