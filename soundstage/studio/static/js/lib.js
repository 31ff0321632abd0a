// The one library of the page, under the names used here: Preact with htm (vendor/).
export {
  html, render, createContext, Component, useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useContext,
} from "../vendor/preact-htm.js";
