/** Yields the elements of all pages; each page is read when it is needed. */
export async function* elements<P extends { nextPageToken: string }, T>(
  read: (pageToken: string) => Promise<P>,
  of: (page: P) => T[],
): AsyncGenerator<T, void, undefined> {
  let token = "";
  do {
    const page = await read(token);
    yield* of(page);
    token = page.nextPageToken;
  } while (token !== "");
}
